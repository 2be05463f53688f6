"""Small exported files, made once for all tests, and what tests of the export gate do with them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import onnx

from fixtures.cases import Export, FileDtype
from fixtures.export.gate import Gate, GateSettings, Make
from fixtures.export.parity_inputs import parity_inputs
from fixtures.export.reference import Reference
from fixtures.records import OnnxGraph
from fixtures.spec import Variant
from fixtures.subject import locate_checkpoint
from fixtures.weights.bundle import Bundle, Weights
from meta_tests.cache import Recipe, link_tree, view
from meta_tests.conftest import SMALL_SPEC, Suite
from meta_tests.loading import CONTENT
from meta_tests.references import StoredReference

MIDAS = Variant(name="midas_small_64", family="midas", model="MiDaS_small", height=64, width=96)
RAFT = Variant(name="raft_small_128", family="raft", model="raft_small", height=128, width=128)

# The two variants above, one file each.
EXPORT_SPEC = SMALL_SPEC.replace("runtimes: [torch]", "runtimes: [onnxruntime]").replace("[1, 2]", "[1]")

# Two networks of 300,000 weights, one file each; a third of the time that those above take.
TINY_SPEC = """\
schema_version: 1
name: small
dtype: fp32
runtimes: [onnxruntime]
protocol: {cpu_budget_s: 0.2, cpu_warmup_s: 0}
variants:
  - {name: resnet_64, family: timm, model: test_resnet, height: 64, width: 64, weights: visual/resnet.safetensors}
  - {name: byobnet_64, family: timm, model: test_byobnet, height: 64, width: 64, weights: visual/byobnet.safetensors}
"""
RESNET_FILE = "timm/test_resnet_64.onnx"
BYOBNET_FILE = "timm/test_byobnet_64.onnx"

Tamper = Callable[[onnx.ModelProto], None]


@dataclass(frozen=True)
class Published:
    """A file that has passed its gate, with all that judges another one in its place."""

    export: Export
    reference: Reference
    weights: Weights
    folder: Path

    @property
    def file(self) -> Path:
        """The published file."""
        return self.folder / self.export.file

    def copy(self, folder: Path) -> Published:
        """The same in a folder of its own, by links: publication replaces files and writes into none."""
        return self.at(link_tree(self.folder, folder))

    def at(self, folder: Path) -> Published:
        """The same, to be published to another folder."""
        return replace(self, folder=folder)

    def gate(self, make: Make, triton: str = "24.08", target_python: Path | None = None) -> Gate:
        """A gate before the place of the file, for what `make` writes."""
        settings = GateSettings(self.folder, self.export.file, triton, False, target_python, "pytest -k this")
        return Gate(self.export, self.reference, self.weights, settings, make)

    def unchanged(self, _export: Export, _weights: Weights, path: Path) -> None:
        """Write the published file, as an exporter would that takes no time."""
        shutil.copyfile(self.file, path)

    def tampered(self, tamper: Tamper) -> Make:
        """What writes the published file, changed."""

        def make(_export: Export, _weights: Weights, path: Path) -> None:
            model = onnx.load(self.file)
            tamper(model)
            onnx.save(model, path)

        return make


# Of the gate's eight inputs a photograph and noise. One that fails is a refusal, and each costs five evaluations then.
FEW = (0, 3)


@cache
def reference_of(bundle_root: Path, variant: Variant, judged_on: tuple[int, ...] = ()) -> Reference:
    """The reference of a variant on the suite's own content; its outputs are in the cache.

    Args:
        judged_on: indices of the gate's inputs; empty: all of them.
    """
    inputs = parity_inputs(replace(CONTENT, models_root=bundle_root), variant)
    chosen = [inputs[index] for index in judged_on or range(len(inputs))]
    return StoredReference(variant, locate_checkpoint(variant, Bundle(bundle_root)), chosen)


def published(
    bundle_root: Path,
    variant: Variant,
    precision: FileDtype = "fp32",
    batch: int = 1,
    graph: OnnxGraph = "portable",
    judged_on: tuple[int, ...] = (),
) -> Published:
    """A variant of a bundle, exported and published beside the bundle; its files are in the cache."""
    return _published(bundle_root, Export(variant, batch, precision, graph=graph), judged_on)


@cache
def _published(bundle_root: Path, export: Export, judged_on: tuple[int, ...]) -> Published:
    variant = export.variant
    weights = Bundle(bundle_root).weights(locate_checkpoint(variant, Bundle(bundle_root)))
    reference = reference_of(bundle_root, variant, judged_on)

    def make(folder: Path) -> None:
        gate = Gate(export, reference, weights, GateSettings(folder, export.file, "24.08", False, None, ""))
        gate.publish()
        gate.close()

    given = {"variant": variant.model_dump(mode="json"), "batch": export.batch, "precision": export.file_dtype}
    given["graph"] = export.graph
    given |= {"weights": [weights.name, weights.sha256, weights.synthetic], "judged_on": judged_on}
    recipe = Recipe(f"exported_{export.id}", given, (__name__,), make)
    return Published(export, reference, weights, view(recipe, bundle_root.parent / recipe.folder.name))


@dataclass(frozen=True)
class ExportSuite(Suite):
    """Runs `pytest export_tests` as a person does."""

    def arguments(self, *arguments: str) -> list[str]:
        """What follows `pytest` on the command line."""
        _, *rest = super().arguments()
        return ["export_tests", *rest, "--onnx-dir", str(self.onnx_dir), *arguments]

    @property
    def onnx_dir(self) -> Path:
        """Where it publishes to."""
        return self.folder / "onnx"
