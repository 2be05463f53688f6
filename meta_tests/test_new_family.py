"""A new family is one new file: nothing else is edited, and everything works with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import fixtures.models
from fixtures import registry
from fixtures.cases import cases_of, exports_of
from fixtures.export.gate import Gate, GateError, GateSettings
from fixtures.export.parity_inputs import parity_inputs
from fixtures.export.reference import Reference
from fixtures.manifest import published
from fixtures.onnx_session import open_session, run
from fixtures.runtimes import runtime_class
from fixtures.spec import load_spec
from fixtures.subject import Sources, device_inputs, locate_checkpoint, require_known, require_loadable
from fixtures.triton.branches import served_branch
from fixtures.triton.repository import write_repository
from fixtures.weights.bundle import Bundle
from meta_tests.loading import CONTENT
from tools.make_bundle import make_bundle

# The file of a person who has a model of edges.
FAMILY = '''
"""Edges of an image, as a small convolution finds them."""

from torch import nn

from fixtures.modalities.image import Image
from fixtures.models import Checkpoint, Family, Tower
from fixtures.records import Normalization
from fixtures.spec import Variant

_UNIT = Normalization(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), interpolation="bilinear")


class Edges(Family):
    models = {"edges": Checkpoint("visual/edges/edges.pt")}

    def tower(self, variant: Variant) -> Tower:
        return Tower(Image(_UNIT), ("input",), ("edges",), "frame", "visual.core_edges", "depth")

    def build(self, variant: Variant) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 3, padding=1), nn.Flatten(0, 1))

    def finalize(self, module: nn.Module, variant: Variant) -> nn.Module:
        return module

    def output_shape(self, variant: Variant, batch: int) -> tuple[int, ...]:
        return (batch, *variant.size)


FAMILY = Edges()
'''

SPEC = """\
schema_version: 1
name: edges
dtype: fp32
runtimes: [torch, onnxruntime]
batches: [2]
variants:
  - {name: edges_64, family: edges, model: edges, height: 64, width: 96}
"""

CPU = torch.device("cpu")


@pytest.fixture
def spec(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A spec that names the family, whose file lies where a checkout's new file would."""
    models = tmp_path / "fixtures" / "models"
    models.mkdir(parents=True)
    (models / "edges.py").write_text(FAMILY)
    (tmp_path / "fixtures" / "runtimes").symlink_to(registry._FIXTURES / "runtimes")
    monkeypatch.setattr(registry, "_FIXTURES", tmp_path / "fixtures")
    monkeypatch.setattr(fixtures.models, "__path__", [*fixtures.models.__path__, str(models)])
    path = tmp_path / "edges.yaml"
    path.write_text(SPEC)
    yield path
    sys.modules.pop("fixtures.models.edges", None)


def test_new_family_is_bundled_measured_exported_and_served(spec: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path / "root", seed=0, specs=[spec])
    bundle, loaded = Bundle(tmp_path / "root"), load_spec(spec)
    require_known(loaded)
    (export,) = exports_of(loaded)
    variant, content = export.variant, replace(CONTENT, models_root=bundle.root)
    require_loadable(variant, bundle)

    weights = bundle.weights(locate_checkpoint(variant, bundle))
    assert weights.synthetic
    reference = Reference(variant, weights.path, parity_inputs(content, variant))
    settings = GateSettings(tmp_path / "onnx", export.file, "24.08", False, None, "")
    gate = Gate(export, reference, weights, settings)
    gate.publish()
    gate.close()
    assert published(tmp_path / "onnx", "edges/edges_64x96_b2.onnx").outputs[0].name == "edges"

    sources = Sources(bundle, tmp_path / "onnx")
    outputs = []
    for case in cases_of(loaded):
        runtime = runtime_class(case.runtime)
        subject = runtime.load_subject(case, CPU, sources)
        with runtime(subject, device_inputs(subject, case, content, 1)) as entered:
            outputs.append(entered.infer(0).clone())
            subject.check_output(outputs[-1], 2)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)

    branch = served_branch(export, tmp_path / "onnx")
    write_repository(tmp_path / "repository", [branch], "cpu", fused=True)
    fused = open_session(tmp_path / "repository" / "edges_64x96_b2_fused" / "1" / "model.onnx", "cpu", "fp32")
    (frames,) = reference.inputs[0].wire
    answer = run(fused, (np.repeat(frames, 2, axis=0),))
    np.testing.assert_allclose(answer[0], reference.truth[0][0], rtol=1e-3, atol=1e-4)


def test_gate_of_new_family_can_fail(spec: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path / "root", seed=0, specs=[spec])
    make_bundle(tmp_path / "other", seed=1, specs=[spec])
    bundle, other = Bundle(tmp_path / "root"), Bundle(tmp_path / "other")
    (export,) = exports_of(load_spec(spec))
    variant = export.variant
    reference = Reference(variant, locate_checkpoint(variant, bundle), parity_inputs(CONTENT, variant))
    settings = GateSettings(tmp_path / "onnx", export.file, "24.08", False, None, "")
    gate = Gate(export, reference, other.weights(locate_checkpoint(variant, other)), settings)
    with pytest.raises(GateError, match="expected at most"):
        gate.publish()
    gate.close()
