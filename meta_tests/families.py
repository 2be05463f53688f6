"""Every family, exported and measured by processes without a network; one making serves all tests of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from fixtures.cases import Export, exports_of
from fixtures.spec import load_spec
from fixtures.subject import locate_checkpoint, resolved
from fixtures.weights.bundle import SYNTHETIC_MARKER, Bundle
from meta_tests.bundles import synthetic_bundle
from meta_tests.cache import Recipe, view
from meta_tests.conftest import ROOT, Suite, environment
from meta_tests.exports import Published, reference_of
from meta_tests.narrow_towers import CLAP, CLIP, narrow_towers

SPEC = f"""\
schema_version: 1
name: families
dtype: fp32
runtimes: [torch]
protocol: {{cpu_budget_s: 0.05, cpu_warmup_s: 0}}
variants:
  - {{name: midas, family: midas, model: MiDaS_small, height: 64, width: 96, runtimes: [torch, onnxruntime]}}
  - {{name: raft, family: raft, model: raft_small, height: 128, width: 128}}
  - {{name: clip_image, family: clip, model: {CLIP}, tower: image, height: 64, width: 96}}
  - {{name: clip_text, family: clip, model: {CLIP}, tower: text, tokens: 77, runtimes: [torch, onnxruntime]}}
  - {{name: clap_audio, family: clap, model: {CLAP}, tower: audio, duration_s: 2, runtimes: [torch, onnxruntime]}}
  - {{name: clap_text, family: clap, model: {CLAP}, tower: text, tokens: 16}}
  - name: torchvision
    family: torchvision
    model: resnet18
    height: 64
    width: 64
    weights: visual/places365/resnet18_places365.pth.tar
    classes: 365
  - name: timm
    family: timm
    model: test_vit
    height: 64
    width: 96
    weights: visual/timm/test_vit.safetensors
    classes: 10
"""
NAMES = ("midas", "raft", "clip_image", "clip_text", "clap_audio", "clap_text", "torchvision", "timm")
# One of each kind, image, text and sound, is measured as its exported file too. The gate runs all files.
IN_ONNXRUNTIME = ("midas", "clip_text", "clap_audio")

_SPEC_FILE = "families.yaml"

# Seconds after which a sealed session hangs. A judgment: both sessions take 55 CPU seconds, and this
# leaves fifteen times as much for a slow and busy machine.
_HANGS_S = 900

# Its imports take as long as measuring three variants.
_SESSIONS_IN_TURN = """\
import meta_tests.sealed, json, sys, pytest
from meta_tests.narrow_towers import narrow_towers
with narrow_towers():
    codes = [pytest.main(arguments) for arguments in json.loads(sys.argv[1])]
sys.exit(max(codes))
"""

# The code of both sessions, beside that of this module.
_SESSIONS = (
    "conftest",
    "export_tests.test_export",
    "bench_tests.test_latency",
    "meta_tests.sealed",
    "meta_tests.narrow_towers",
)


@dataclass(frozen=True)
class Sealed:
    """What two sealed sessions did, as their audit log has it.

    Attributes:
        folder: where they ran.
        models_root: what they read weights from.
        network: attempts to reach the network.
        written: absolute paths that were opened for writing, made or renamed.
        left: what they left in each folder of theirs for temporary files and settings.
    """

    folder: str
    models_root: str
    network: list[str]
    written: list[str]
    left: dict[str, list[str]]


@dataclass(frozen=True)
class Families:
    """A models root with every family, its exported files and one measured run."""

    folder: Path
    models_root: Path

    @property
    def spec(self) -> Path:
        """The spec of all variants."""
        return self.folder / _SPEC_FILE

    @property
    def onnx_dir(self) -> Path:
        """Folder of the exported files."""
        return self.folder / "onnx"

    @property
    def run(self) -> Path:
        """Folder of the measured run."""
        return self.folder / "out" / "sealed"

    @property
    def sealed(self) -> Sealed:
        """What the sessions did."""
        return Sealed(**json.loads((self.folder / "sealed.json").read_text()))

    @cached_property
    def _bundle(self) -> Bundle:
        """One for all tests, because it reads each checkpoint for its digest once."""
        return Bundle(self.models_root)

    @cached_property
    def _exports(self) -> dict[str, Export]:
        spec = resolved(load_spec(self.spec), self._bundle)
        return {export.variant.name: export for export in exports_of(spec)}

    def export(self, name: str) -> Export:
        """The export of a variant."""
        return self._exports[name]

    def published(self, name: str) -> Published:
        """The file of a variant with all that judges another one in its place."""
        export = self.export(name)
        weights = self._bundle.weights(locate_checkpoint(export.variant, self._bundle))
        return Published(export, reference_of(self.models_root, export.variant), weights, self.onnx_dir)


@contextmanager
def all_families(folder: Path) -> Iterator[Families]:
    """Every family below a new `folder`; made by real sessions, or from the cache. The models are known inside."""
    folder.mkdir()
    with narrow_towers():
        yield _all_families(folder)


def _all_families(folder: Path) -> Families:
    models_root = synthetic_bundle(folder / "root", spec=SPEC)
    given = {"spec": SPEC, "bundle": (models_root / SYNTHETIC_MARKER).read_text()}
    recipe = Recipe("families", given, (__name__, *_SESSIONS), lambda content: _make(content, models_root))
    return Families(view(recipe, folder / "made"), models_root)


def _make(content: Path, models_root: Path) -> None:
    with tempfile.TemporaryDirectory() as name:  # its path is short enough for the socket of a fork server
        folder = Path(name)
        sealed = _run_sessions(folder, models_root)
        for made in (_SPEC_FILE, "onnx", "out"):
            shutil.move(folder / made, content / made)
    (content / "sealed.json").write_text(json.dumps(asdict(sealed)))


def _run_sessions(folder: Path, models_root: Path) -> Sealed:
    """Export and measure everything, with folders that no other process writes to."""
    spec, log, working = folder / _SPEC_FILE, folder / "sealed.log", folder / "working"
    spec.write_text(SPEC)
    _, *arguments = Suite(folder, models_root).arguments("--spec", str(spec), "--onnx-dir", str(folder / "onnx"))
    own = {name: folder / name.lower() for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
    for path in (*own.values(), working):
        path.mkdir()
    added = {"SEALED_LOG": str(log), **{name: str(path) for name, path in own.items()}}
    export, bench = ["export_tests", *arguments], ["bench_tests/test_latency.py", *arguments, "--run-id", "sealed"]
    _run_sealed((export, bench), working, added)
    notes = [line.split(" ", 1) for line in log.read_text().splitlines()]
    return Sealed(
        folder=str(folder),
        models_root=str(models_root),
        network=[what for kind, what in notes if kind == "network"],
        written=[what for kind, what in notes if kind == "writes"],
        left={path.name: [left.name for left in path.iterdir()] for path in (*own.values(), working)},
    )


def _run_sealed(sessions: Sequence[list[str]], working: Path, added: dict[str, str]) -> None:
    """Run sessions of pytest in one process without a network, from a working directory. All have to pass.

    Args:
        sessions: command lines, the folder of tests first.
        added: environment variables.
    """
    unset = {name: value for name, value in environment().items() if not name.startswith(("TORCHINDUCTOR", "ORT_"))}
    always = ["-q", "--show-capture=no"]
    given = [[str(ROOT / tests), *rest, *always] for tests, *rest in sessions]
    done = subprocess.run(
        [sys.executable, "-c", _SESSIONS_IN_TURN, json.dumps(given)],
        env={**unset, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT), **added},
        cwd=working,
        capture_output=True,
        text=True,
        timeout=_HANGS_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
