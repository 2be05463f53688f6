"""A small models root with a spec and a catalog of its own, for tests of `tools.check_bundle`."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fixtures.bundle_check.catalog import load_catalog
from fixtures.bundle_check.check import Request, check_bundle
from fixtures.bundle_check.digests import LOCK, Lock
from fixtures.modalities.text import DEFAULT_PROMPTS, read_prompts
from fixtures.records import ArtifactCheck, BundleCheck
from fixtures.spec import load_spec
from fixtures.synthetic.files import save_checkpoint, save_tokenizer
from fixtures.weights.bundle import Bundle
from meta_tests.cache import Recipe, entry
from tools.make_bundle import make_bundle

RAFT = "torch_cache/hub/checkpoints/raft_small_C_T_V2-01064c6d.pth"
SQUEEZENET = "torch_cache/hub/checkpoints/squeezenet1_1-b8a52dc0.pth"
# A file and a tokenizer that the catalog names.
EXTRA, TOKENIZER = "visual/extra/model.pt", "hf_cache/hub/models--roberta-base"
SPEC = """\
schema_version: 1
name: small
dtype: fp32
runtimes: [torch]
variants:
  - {name: raft_small_128, family: raft, model: raft_small, height: 128, width: 128}
  - {name: squeezenet_64, family: torchvision, model: squeezenet1_1, height: 64, width: 64}
"""
# Needs three tokenizers, of which the small root has one.
CLAP = "  - {name: clap_text, family: clap, model: HTSAT-tiny, tower: text, tokens: 77, optional: true}\n"
ENTRY = """\
model_name: raft_small
role: flow
runtime: inprocess
engine: torch
precision: fp32
device_policy: auto
weights_digest: auto
local_artifacts:
"""


def _make(root: Path) -> None:
    """A root of 9 MB with everything that SPEC and the small catalog name."""
    with tempfile.TemporaryDirectory() as beside:
        spec = Path(beside) / "spec.yaml"
        spec.write_text(SPEC)
        make_bundle(root, 0, specs=[spec])
    save_tokenizer(root / "hf_cache/hub", "roberta-base", read_prompts(DEFAULT_PROMPTS))
    save_checkpoint({"a.weight": torch.ones(3), "b": torch.ones(2)}, root / EXTRA, "torchscript")


_ROOT = Recipe("models_root", {}, ("meta_tests.models_root",), _make)


class ModelsRoot:
    """A copy of the small root; a test may change every file of it.

    Attributes:
        folder: holds everything else that a test writes.
        arguments: of `tools.check_bundle` about this root.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with entry(_ROOT) as made:
            self.root = Path(shutil.copytree(made, folder / "root"))
        self.spec = folder / "spec.yaml"
        self.spec.write_text(SPEC + CLAP)
        self.catalog = folder / "catalog"
        self.enter("raft_small", ("file", RAFT))
        self.enter("extra", ("file", EXTRA), ("dir", TOKENIZER))
        self.arguments = ["--models-root", str(self.root), "--spec", str(self.spec), "--catalog", str(self.catalog)]

    def enter(self, name: str, *artifacts: tuple[str, str], digest: str = "auto") -> None:
        """Write an entry of the catalog. An artifact is its kind and its path."""
        head = ENTRY.replace("raft_small", name).replace("digest: auto", f"digest: {digest}")
        (self.catalog / "vision").mkdir(parents=True, exist_ok=True)
        lines = [f"  - {{kind: {kind}, path: {path}}}\n" for kind, path in artifacts]
        (self.catalog / "vision" / f"{name}.yaml").write_text(head + "".join(lines))

    def check(self, **options: Any) -> BundleCheck:
        """The findings about it; options are those of `Request`."""
        spec, catalog = load_spec(self.spec), load_catalog(self.catalog)
        lock = Lock.open(self.root / LOCK)
        return check_bundle(replace(Request(Bundle(self.root), (spec,), catalog, spec, lock), **options))

    def without_tokenizers(self) -> None:
        """Ask for no variant that needs a tokenizer."""
        self.spec.write_text(SPEC)

    @property
    def snapshot(self) -> Path:
        """The folder with the tokenizer's files."""
        (snapshot,) = (self.root / TOKENIZER / "snapshots").iterdir()
        return snapshot


# Changes a file; what it damages is its name.
Damage = Callable[[Path], None]


def half(path: Path) -> None:
    """The first half of the file is left."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def pipe(path: Path) -> None:
    """A named pipe stands in its place, from which reading never ends."""
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    """A folder stands in its place."""
    path.unlink()
    path.mkdir()


def of(check: BundleCheck, path: str) -> ArtifactCheck:
    """The findings about one path."""
    (found,) = [artifact for artifact in check.artifacts if artifact.path == path]
    return found
