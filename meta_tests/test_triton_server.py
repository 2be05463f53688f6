"""A server of PyPI's binary: started, refused, and ended with the process that started it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
import torch

from fixtures.cases import Export
from fixtures.errors import InputError
from fixtures.spec import Serving
from fixtures.triton.branches import ServedBranch, served_branch
from fixtures.triton.client import open_client
from fixtures.triton.config import config_text, read_config
from fixtures.triton.installation import Installation
from fixtures.triton.repository import VERSION, write_repository
from fixtures.triton.server import Endpoint, LocalServer, RunningServer, ServerError
from meta_tests.branches import publish_stand_in
from meta_tests.conftest import ROOT
from meta_tests.exports import MIDAS, RAFT
from meta_tests.served import SmallServer, frames_of

# A deprecation warning of a library is no defect of a server.
pytestmark = pytest.mark.filterwarnings("default:::tritonclient")

PATIENCE_S = 30  # a server ends within its _STOP_S of 5 s
SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def branches(tmp_path_factory: pytest.TempPathFactory) -> list[ServedBranch]:
    """MIDAS and RAFT with files of a few nodes."""
    folder = tmp_path_factory.mktemp("onnx")
    exports = [Export(variant, 1, "fp32", Serving()) for variant in (MIDAS, RAFT)]
    for export in exports:
        publish_stand_in(folder, export)
    return [served_branch(export, folder) for export in exports]


@pytest.fixture(scope="module")
def repository(branches: list[ServedBranch], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "a person's repository"  # Triton's Python backend takes no such path
    write_repository(folder, branches, "cpu")
    return folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a server keeps its files; empty before and after."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


# --- started ---


def test_server_has_a_process_for_each_instance(small_server: SmallServer) -> None:
    server = small_server.server
    assert server.load_ms is not None
    assert 100 < server.load_ms < 300_000
    names = sorted(process.name()[:15] for process in server.processes())
    assert names == ["triton_python_b"] * 6 + ["tritonserver"]  # preprocess, model and fused file of two branches


# --- refused ---


def refusal(installation: Installation, repository: Path, temporary: Path, *models: str) -> str:
    """The error of a server that does not start and leaves neither processes nor files."""
    before = children()
    with pytest.raises(ServerError) as caught, LocalServer(installation, repository, models):
        pass
    assert not children() - before
    assert list(temporary.iterdir()) == []
    return str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_repository_for_a_gpu_is_refused_without_one(
    installation: Installation, branches: list[ServedBranch], tmp_path: Path, temporary: Path
) -> None:
    write_repository(tmp_path / "repository", branches[:1], "cuda")
    message = refusal(installation, tmp_path / "repository", temporary, "midas_64x96")
    assert message.startswith("tritonserver ended with code ")
    assert "midas_64x96_onnx specifies invalid or unsupported gpu id 0" in message


def test_server_refuses_what_its_backend_does_not_load(
    installation: Installation, repository: Path, tmp_path: Path, temporary: Path
) -> None:
    """A batch before a fixed dimension, and a file of which half is missing."""
    damaged = shutil.copytree(repository, tmp_path / "damaged")
    path = damaged / "midas_64x96_onnx" / "config.pbtxt"
    config = read_config(path.read_text())
    config.max_batch_size = 8
    for dims in (*config.input, *config.output, *config.model_warmup[0].inputs.values()):
        del dims.dims[0]
    path.write_text(config_text(config))
    half = damaged / "raft_128_onnx" / VERSION / "model.onnx"
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    message = refusal(installation, damaged, temporary, "midas_64x96_onnx", "raft_128_onnx")
    assert "the first dimension must be -1; but shape expected by the model is [1, 3, 64, 96]" in message
    assert "raft_128_onnx/1/model.onnx is no ONNX model" in message


def test_folder_that_is_no_repository_is_refused(installation: Installation, tmp_path: Path, temporary: Path) -> None:
    with pytest.raises(InputError, match="expected a model repository"), LocalServer(installation, tmp_path):
        pass
    assert list(temporary.iterdir()) == []


# --- ended ---


def regions() -> set[str]:
    return {path.name for path in SHARED_MEMORY.glob(f"pretriton_{os.getpid()}_*")}


def test_leaving_ends_every_process_and_removes_every_file(
    installation: Installation, repository: Path, branches: list[ServedBranch], temporary: Path
) -> None:
    branch, processes, regions_before = branches[0], children(), regions()
    with LocalServer(installation, repository, ["preprocess_midas_64x96"]) as server:
        started = children() - processes
        assert len(started) == 3  # supervisor, server, and one model
        assert len(list(temporary.iterdir())) == 1
        client = open_client(server.endpoint, "grpc+shm")
        client.infer(branch.models["preprocess"], frames_of(branch))
        assert regions() != regions_before
    assert not any(process.is_running() for process in started)
    assert server.processes() == []
    assert list(temporary.iterdir()) == []
    client.close()  # after its server has ended
    assert regions() == regions_before


def test_server_ends_with_the_process_that_started_it(
    installation: Installation, repository: Path, tmp_path: Path
) -> None:
    """The process is killed, so that it cannot stop the server itself."""
    program = (
        "import sys, time; from pathlib import Path; from fixtures.triton.access import ServerAccess\n"
        "with ServerAccess(Path(sys.argv[1])).serve(Path(sys.argv[2]), ['preprocess_midas_64x96']):\n"
        "    print('ready', flush=True); time.sleep(600)"
    )
    arguments = [sys.executable, "-c", program, str(installation.python), str(repository)]
    environment = {**installation.environment(""), "TMPDIR": str(tmp_path), "PYTHONPATH": "", "LD_LIBRARY_PATH": ""}
    run = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, env=environment)
    assert run.stdout is not None
    with run.stdout as output:
        assert output.readline() == b"ready\n"
        started = psutil.Process(run.pid).children(recursive=True)
        assert [process.name()[:15] for process in started][1:] == ["tritonserver", "triton_python_b"]
        run.kill()
        assert run.wait() == -signal.SIGKILL
    _, alive = psutil.wait_procs(started, timeout=PATIENCE_S)
    for process in alive:
        process.kill()
    assert not alive


# --- running already ---


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_closed_port_is_no_server(host: str) -> None:
    address = f"{host}:{closed_port()}"
    with pytest.raises(ServerError) as caught, RunningServer(Endpoint(address, address)):
        pass
    assert str(caught.value) == f"TRITON_HTTP_URL={address}: no server there that is ready"


def test_port_of_another_protocol_is_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        answers = subprocess.Popen(
            [sys.executable, "-c", "import socket; socket.socket(fileno=0).accept()[0].sendall(b'SSH-2.0')"],
            stdin=other.fileno(),
        )
        with pytest.raises(ServerError, match="no server there"), RunningServer(Endpoint(address, address)):
            pass
        assert answers.wait(PATIENCE_S) == 0
