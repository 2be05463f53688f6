"""A real server for tests: both small branches on one tritonserver, and `pytest serve_tests` as a person runs it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from fixtures.export.accuracy import relative_error
from fixtures.manifest import enter, read_manifest
from fixtures.records import ServedProtocol
from fixtures.spec import Variant
from fixtures.triton.branches import ServedBranch, ServedModel, served_branch
from fixtures.triton.client import Array
from fixtures.triton.installation import Installation
from fixtures.triton.repository import VERSION, write_repository
from fixtures.triton.server import Endpoint, LocalServer
from meta_tests.conftest import SMALL_SPEC, Suite
from meta_tests.exports import MIDAS, RAFT, published
from meta_tests.file_records import with_tuning

PROTOCOLS: tuple[ServedProtocol, ...] = ("http", "grpc", "grpc+shm")
FAMILIES = ["midas", "raft"]
# Threads that wait in a busy loop cost as much as the answers: RAFT takes 80 CPU milliseconds instead of 188.
ONE_THREAD = {"intra_op_thread_count": "1"}
SAME = 1e-5  # relative L2 error between two versions of ONNX Runtime on one processor

SERVED_SPEC = (
    SMALL_SPEC.replace("runtimes: [torch]", "runtimes: [torch, onnxruntime, triton]")
    .replace("batches: [1, 2]", "batches: [1]")
    .replace("cpu_budget_s: 0.2", "cpu_budget_s: 0.05")  # five rounds a case
)


@dataclass(frozen=True)
class SmallServer:
    """A running server with the branches of MIDAS and RAFT.

    Attributes:
        onnx_dir: the published files and their manifest.
        branches: family → branch.
    """

    server: LocalServer
    repository: Path
    onnx_dir: Path
    branches: dict[str, ServedBranch]

    @property
    def endpoint(self) -> Endpoint:
        """Addresses of the server."""
        return self.server.endpoint

    def local_answer(self, branch: ServedBranch, frames: tuple[Array, ...]) -> Array:
        """The answer that the repository's preprocess and model files give in this process."""
        named = {tensor.name: frame for tensor, frame in zip(branch.inputs, frames, strict=True)}
        between = self._run(branch.models["preprocess"], named)
        (answer,) = self._run(branch.models["model"], between).values()
        return answer

    def _run(self, model: ServedModel, inputs: dict[str, Array]) -> dict[str, Array]:
        file = self.repository / model.name / VERSION / "model.onnx"
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        names = [tensor.name for tensor in model.outputs]
        return dict(zip(names, session.run(names, inputs), strict=True))


@contextmanager
def small_server_in(folder: Path, installation: Installation, bundle_root: Path) -> Iterator[SmallServer]:
    """A server that runs inside the context; its repository and its files lie in `folder`."""
    onnx_dir = published_together(folder / "onnx", bundle_root, (MIDAS, RAFT))
    exports = [published(bundle_root, variant).export for variant in (MIDAS, RAFT)]
    branches = {export.variant.family: served_branch(export, onnx_dir) for export in exports}
    write_repository(folder / "repository", list(branches.values()), "cpu", fused=True)
    with LocalServer(installation, folder / "repository") as server:
        yield SmallServer(server, folder / "repository", onnx_dir, branches)


def published_together(folder: Path, bundle_root: Path, variants: Sequence[Variant]) -> Path:
    """A folder with the published files of several variants, tuned to one thread, and one manifest; returns it."""
    for variant in variants:
        one = published(bundle_root, variant)
        file = folder / one.export.file
        file.parent.mkdir(parents=True, exist_ok=True)
        os.link(one.file, file)
        record = read_manifest(one.folder).files[one.export.file]
        enter(folder, one.export.file, with_tuning(record, ONE_THREAD, "cpu"))
    return folder


def frames_of(branch: ServedBranch, seed: int = 0) -> tuple[Array, ...]:
    """Noise as clients of a branch would send it."""
    draw = np.random.default_rng(seed)
    return tuple(draw.integers(0, 256, tensor.shape, dtype=np.uint8) for tensor in branch.inputs)


def difference(one: Array, other: Array) -> float:
    """Relative L2 error between two answers."""
    return relative_error(one.astype(np.float64), other.astype(np.float64))


@dataclass(frozen=True)
class ServeSuite(Suite):
    """Runs `pytest serve_tests`, or another folder of tests, on published files."""

    onnx_dir: Path = Path()
    tests: str = "serve_tests"

    @property
    def spec(self) -> Path:
        """The spec of the small branches, written when first asked for."""
        path = self.folder / "served.yaml"
        path.write_text(SERVED_SPEC)
        return path

    def arguments(self, *arguments: str) -> list[str]:
        """What follows `pytest` on the command line; a later argument replaces an earlier one."""
        _, *rest = super().arguments()
        return [self.tests, *rest, "--onnx-dir", str(self.onnx_dir), "--spec", str(self.spec), *arguments]


def names_server(endpoint: Endpoint) -> Mapping[str, str]:
    """Environment variables that name a running server."""
    return {"TRITON_HTTP_URL": endpoint.http, "TRITON_GRPC_URL": endpoint.grpc}
