"""A real tritonserver: found, started, asked, and ended with whoever started it."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil
import pytest
import torch
from tritonclient import http

from fixtures.errors import InputError
from fixtures.export.accuracy import relative_error
from fixtures.records import ServedProtocol, ServerStep
from fixtures.triton.access import ServerAccess
from fixtures.triton.branches import Role, ServedBranch, ServedModel, served_branch
from fixtures.triton.client import Array, RequestRefused, open_client
from fixtures.triton.config import config_text, configs, read_config
from fixtures.triton.installation import Installation, NoServerError
from fixtures.triton.live import Counters, LiveServer, steps_between
from fixtures.triton.repository import VERSION, write_repository
from fixtures.triton.request_paths import RequestPaths
from fixtures.triton.server import Endpoint, LocalServer, RunningServer, ServerError
from meta_tests.conftest import ROOT
from meta_tests.exports import MIDAS, RAFT, published

# A library that deprecates something says nothing about a server.
pytestmark = pytest.mark.filterwarnings("default:::tritonclient")

PROTOCOLS: tuple[ServedProtocol, ...] = ("http", "grpc", "grpc+shm")
FAMILIES = ["midas", "raft"]
SAME = 1e-5  # relative L2 error between two versions of ONNX Runtime on one processor
PATIENCE_S = 30
SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def installation() -> Installation:
    try:
        return Installation.find(None)
    except NoServerError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def branches(installation: Installation, bundle_root: Path) -> dict[str, ServedBranch]:
    """Family → branch; only where they can be served, since exports take their time."""
    exported = [published(bundle_root, variant) for variant in (MIDAS, RAFT)]
    return {one.export.variant.family: served_branch(one.export, one.folder) for one in exported}


@pytest.fixture(scope="module")
def repository(branches: dict[str, ServedBranch], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "repository"
    write_repository(folder, list(branches.values()), "cpu", fused=True)
    return folder


@pytest.fixture(scope="module")
def server(installation: Installation, repository: Path) -> Iterator[LocalServer]:
    with LocalServer(installation, repository) as server:
        yield server


@pytest.fixture
def live(server: LocalServer) -> Iterator[LiveServer]:
    with LiveServer(server.endpoint) as live:
        yield live


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a server keeps its files, empty before and after."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def frames_of(branch: ServedBranch, seed: int = 0) -> tuple[Array, ...]:
    draw = np.random.default_rng(seed)
    return tuple(draw.integers(0, 256, tensor.shape, dtype=np.uint8) for tensor in branch.inputs)


def local(repository: Path, model: ServedModel, inputs: dict[str, Array]) -> dict[str, Array]:
    """What a file of the repository gives in this process."""
    session = onnxruntime.InferenceSession(
        repository / model.name / VERSION / "model.onnx", providers=["CPUExecutionProvider"]
    )
    names = [tensor.name for tensor in model.outputs]
    return dict(zip(names, session.run(names, inputs), strict=True))


def expected(repository: Path, branch: ServedBranch, frames: tuple[Array, ...]) -> Array:
    """Preprocess, then the published file."""
    named = {tensor.name: frame for tensor, frame in zip(branch.inputs, frames, strict=True)}
    between = local(repository, branch.models["preprocess"], named)
    (answer,) = local(repository, branch.models["model"], between).values()
    return answer


def differ(one: Array, other: Array) -> float:
    return relative_error(one.astype(np.float64), other.astype(np.float64))


# --- asked ---


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_protocol_gives_the_answer_of_the_local_files(
    server: LocalServer, repository: Path, branches: dict[str, ServedBranch], name: str, protocol: ServedProtocol
) -> None:
    branch = branches[name]
    with open_client(server.endpoint, protocol) as client:
        answers = [client.infer(branch.models["ensemble"], frames_of(branch, seed)) for seed in (0, 1)]
        fused = client.infer(branch.models["fused"], frames_of(branch))
    assert answers[0].shape == branch.outputs[0].shape
    assert answers[0].dtype == np.float32
    for seed, answer in enumerate(answers):
        assert differ(answer, expected(repository, branch, frames_of(branch, seed))) < SAME
    assert differ(fused, answers[0]) < SAME
    assert differ(answers[1], answers[0]) > 100 * SAME, "these frames tell no request from another"


def test_the_server_says_how_long_it_took_and_what_it_runs(server: LocalServer, live: LiveServer) -> None:
    assert server.load_ms is not None
    assert 100 < server.load_ms < 300_000
    names = sorted(process.name()[:15] for process in server.processes())
    assert names == ["triton_python_b"] * 6 + ["tritonserver"]  # three files of each branch
    assert live.is_live()
    assert live.kind("midas_64x96_onnx") == "emulated"


def test_a_running_server_is_left_as_it_is(server: LocalServer, live: LiveServer) -> None:
    with RunningServer(server.endpoint) as running:
        assert running.processes() == []
    assert live.is_ready("midas_64x96")


@pytest.mark.parametrize("name", FAMILIES)
def test_counters_tell_the_requests_between_two_readings(
    server: LocalServer, live: LiveServer, branches: dict[str, ServedBranch], name: str
) -> None:
    branch = branches[name]
    models = [branch.models[role].name for role in ("ensemble", "preprocess", "model", "fused")]
    before = live.counters(models)
    with open_client(server.endpoint, "http") as client:
        for _ in range(3):
            client.infer(branch.models["ensemble"], frames_of(branch))
    steps = {step.model: step for step in live.steps_since({model: before[model] for model in models[:3]}, 3)}
    assert {model: step.requests for model, step in steps.items()} == dict.fromkeys(models[:3], 3)
    assert steps_between(before, live.counters(models)) == tuple(steps.values())
    whole = steps[branch.name].total_ms
    assert whole > max(steps[model].total_ms for model in models[1:3]) > 0


def test_steps_are_means_of_the_requests_between() -> None:
    def phases(count: int, milliseconds: int) -> dict[str, tuple[int, int]]:
        names = ("success", "queue", "compute_input", "compute_infer", "compute_output", "fail")
        return {name: (count, milliseconds * 10**6 * index) for index, name in enumerate(names, start=1)}

    (step,) = steps_between({"a": phases(2, 5), "b": phases(7, 9)}, {"a": phases(6, 13), "b": phases(7, 9)})
    assert (step.model, step.requests) == ("a", 4)
    measured = (step.total_ms, step.queue_ms, step.compute_input_ms, step.compute_infer_ms, step.compute_output_ms)
    assert measured == (2.0, 4.0, 6.0, 8.0, 10.0)


def books_of(monkeypatch: pytest.MonkeyPatch, counts: Iterator[int]) -> LiveServer:
    """Nobody's server, which counts requests of 2 ms: one number of them for each reading."""

    def read(self: http.InferenceServerClient, model: str) -> dict[str, Any]:
        names = ("success", "queue", "compute_input", "compute_infer", "compute_output")
        number = next(counts)
        phases = {name: {"count": number, "ns": number * 2_000_000} for name in names}
        return {"model_stats": [{"inference_stats": phases}]}

    monkeypatch.setattr(http.InferenceServerClient, "get_inference_statistics", read)
    return LiveServer(Endpoint("localhost:1", "localhost:1"))


def test_a_request_that_is_counted_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with books_of(monkeypatch, chain([7, 7], [7] * 20, repeat(8))) as late:
        (step,) = late.steps_since(late.counters(["midas"]), 1)
    assert (step.requests, step.total_ms) == (1, 2.0)


def test_answers_that_are_never_counted_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fixtures.triton.live._COUNTED_S", 0.05)
    with books_of(monkeypatch, chain([7, 7], repeat(8))) as forgetful:
        before = forgetful.counters(["midas"])
        with pytest.raises(ServerError, match=r"answered 2 requests and counted \{'midas': 1\}"):
            forgetful.steps_since(before, 2)


def test_a_server_that_others_ask_all_the_time_is_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fixtures.triton.live._SETTLED_S", 0.05)
    with books_of(monkeypatch, count(7)) as busy:
        assert busy.counters(["midas"])["midas"]["success"][0] > 7


def test_no_time_at_the_server_is_longer_than_its_client_waited(
    monkeypatch: pytest.MonkeyPatch, server: LocalServer, live: LiveServer, branches: dict[str, ServedBranch]
) -> None:
    """Its count of a request ends after the answer has left; here a second after."""
    waited_for: list[int] = []

    def done_late(self: LiveServer, before: Counters, requests: int) -> tuple[ServerStep, ...]:
        waited_for.append(requests)
        return tuple(
            step.model_copy(update={"total_ms": step.total_ms + 1e3}) for step in counted(self, before, requests)
        )

    counted = LiveServer.steps_since
    monkeypatch.setattr(LiveServer, "steps_since", done_late)
    paths = RequestPaths(live, branches["midas"], [frames_of(branches["midas"])]).paths(3)
    assert [path.role for path in paths] == ["ensemble", "ensemble", "ensemble", "model", "fused"]
    assert all(path.server_ms == path.latency_ms.p50 for path in paths)
    assert waited_for == [3] * 5 + [1] * 15, "the warm-up of each way, and each round of it"


Change = Callable[[Any], None]
CHANGES: dict[str, Change] = {
    "backend: onnxruntime, expected python": lambda config: setattr(config, "backend", "python"),
    "max_batch_size: 0, expected 8": lambda config: setattr(config, "max_batch_size", 8),
    "instance_group[0].count: 1, expected 2": lambda config: setattr(config.instance_group[0], "count", 2),
    "instance_group[0].kind: KIND_CPU, expected KIND_GPU": lambda config: setattr(config.instance_group[0], "kind", 1),
    "input[0].dims[2]: 64, expected 65": lambda config: config.input[0].dims.__setitem__(2, 65),
    "output[0].data_type: TYPE_FP32, expected TYPE_FP16": lambda config: setattr(config.output[0], "data_type", 10),
    "parameters.key: None, expected {'string_value': '1'}": lambda config: setattr(
        config.parameters["key"], "string_value", "1"
    ),
}


@pytest.mark.parametrize("role", ["preprocess", "model", "fused", "ensemble"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_runs_with_what_was_written(
    live: LiveServer, repository: Path, branches: dict[str, ServedBranch], name: str, role: Role
) -> None:
    model = branches[name].models[role]
    assert live.is_ready(model.name)
    written = read_config((repository / model.name / "config.pbtxt").read_text())
    assert live.config_differences(written) == []
    assert live.metadata_differences(model.name, model.inputs, model.outputs) == []


@pytest.mark.parametrize("says", CHANGES)
def test_a_configuration_that_was_changed_is_named(
    live: LiveServer, branches: dict[str, ServedBranch], says: str
) -> None:
    model = branches["midas"].models["model"].name
    wanted = copy.deepcopy(configs(branches["midas"], "cpu", fused=False)[model])
    CHANGES[says](wanted)
    (difference,) = live.config_differences(wanted)
    if says.startswith("parameters"):
        assert difference == f"{model}.parameters.key.string_value: None, expected 1"
    else:
        assert difference == f"{model}.{says}"


def test_a_list_of_another_length_is_named(live: LiveServer, branches: dict[str, ServedBranch]) -> None:
    model = branches["midas"].models["model"].name
    wanted = copy.deepcopy(configs(branches["midas"], "cpu", fused=False)[model])
    del wanted.output[:]
    wanted.output.add(name="one", data_type=11, dims=[1])
    wanted.output.add(name="two", data_type=11, dims=[1])
    (difference,) = live.config_differences(wanted)
    assert difference.startswith(f"{model}.output: [{{'name': ")
    assert "'two'" in difference


@pytest.mark.parametrize("changes", [{"name": "other"}, {"dtype": "FLOAT16"}, {"shape": (1, 3, 64, 97)}], ids=str)
def test_metadata_that_differ_are_named(
    live: LiveServer, branches: dict[str, ServedBranch], changes: dict[str, Any]
) -> None:
    model = branches["midas"].models["model"]
    inputs = [model.inputs[0].model_copy(update=changes)]
    (difference,) = live.metadata_differences(model.name, inputs, model.outputs)
    assert difference.startswith(f"{model.name}: inputs=[")
    assert str(changes.get("name") or changes.get("shape", ("FP16",))[-1]) in difference
    both = live.metadata_differences(model.name, [], [])
    assert [one.split("=")[0] for one in both] == [f"{model.name}: inputs", f"{model.name}: outputs"]


def regions() -> set[str]:
    return {path.name for path in SHARED_MEMORY.glob(f"pretriton_{os.getpid()}_*")}


def test_regions_of_shared_memory_are_gone_with_the_client(
    server: LocalServer, branches: dict[str, ServedBranch]
) -> None:
    before, branch = regions(), branches["raft"]
    with http.InferenceServerClient(server.endpoint.http) as known:
        with open_client(server.endpoint, "grpc+shm") as client:
            client.infer(branch.models["ensemble"], frames_of(branch))
            client.infer(branch.models["ensemble"], frames_of(branch, 1))
            assert len(regions() - before) == 3  # two frames and an answer, once
            assert len(known.get_system_shared_memory_status()) == 3
        assert regions() == before
        assert known.get_system_shared_memory_status() == []


def test_regions_are_gone_after_a_request_that_was_refused(
    server: LocalServer, branches: dict[str, ServedBranch]
) -> None:
    before, model = regions(), branches["midas"].models["ensemble"]
    unknown = ServedModel("unknown", model.inputs, model.outputs)
    with open_client(server.endpoint, "grpc+shm") as client, pytest.raises(RequestRefused, match="unknown"):
        client.infer(unknown, frames_of(branches["midas"]))
    assert regions() == before


# --- refused ---


def refusal(installation: Installation, repository: Path, temporary: Path, *models: str) -> str:
    """The error of a server that does not start, which leaves nothing behind."""
    children = set(psutil.Process().children(recursive=True))
    with pytest.raises(ServerError) as caught, LocalServer(installation, repository, models):
        pass
    assert not set(psutil.Process().children(recursive=True)) - children
    assert list(temporary.iterdir()) == []
    return str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_repository_for_a_gpu_is_refused_without_one(
    installation: Installation, branches: dict[str, ServedBranch], tmp_path: Path, temporary: Path
) -> None:
    write_repository(tmp_path / "repository", [branches["midas"]], "cuda")
    words = refusal(installation, tmp_path / "repository", temporary, "midas_64x96")
    assert words.startswith("tritonserver ended with code ")
    assert "midas_64x96_onnx specifies invalid or unsupported gpu id 0" in words


def test_what_the_backend_does_not_load_is_refused_by_the_server(
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
    words = refusal(installation, damaged, temporary, "midas_64x96_onnx", "raft_128_onnx")
    assert "the first dimension must be -1; but shape expected by the model is [1, 3, 64, 96]" in words
    assert "raft_128_onnx/1/model.onnx is no ONNX model" in words


def test_a_folder_that_is_no_repository_is_refused(installation: Installation, tmp_path: Path, temporary: Path) -> None:
    with pytest.raises(InputError, match="expected a model repository"), LocalServer(installation, tmp_path):
        pass
    assert list(temporary.iterdir()) == []


# --- ended ---


def test_leaving_ends_every_process_and_removes_every_file(
    installation: Installation, repository: Path, branches: dict[str, ServedBranch], temporary: Path
) -> None:
    branch, before = branches["midas"], regions()
    children = set(psutil.Process().children(recursive=True))
    with LocalServer(installation, repository, ["preprocess_midas_64x96"]) as server:
        started = set(psutil.Process().children(recursive=True)) - children
        assert len(started) == 3  # supervisor, server, and one model
        assert len(list(temporary.iterdir())) == 1
        client = open_client(server.endpoint, "grpc+shm")
        client.infer(branch.models["preprocess"], frames_of(branch))
        assert regions() != before
    assert not any(process.is_running() for process in started)
    assert server.processes() == []
    assert list(temporary.iterdir()) == []
    client.close()  # whose server has gone before it
    assert regions() == before


def test_a_server_ends_with_the_process_that_started_it(
    installation: Installation, repository: Path, tmp_path: Path
) -> None:
    program = (
        "import sys, time; from pathlib import Path; from fixtures.triton.access import ServerAccess\n"
        "with ServerAccess(Path(sys.argv[1])).serve(Path(sys.argv[2]), ['preprocess_midas_64x96']):\n"
        "    print('ready', flush=True); time.sleep(600)"
    )
    arguments = [sys.executable, "-c", program, str(installation.python), str(repository)]
    environment = {**installation.environment(""), "TMPDIR": str(tmp_path), "PYTHONPATH": "", "LD_LIBRARY_PATH": ""}
    run = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, env=environment)
    assert run.stdout is not None
    with run.stdout as words:
        assert words.readline() == b"ready\n"
        started = psutil.Process(run.pid).children(recursive=True)
        assert [process.name()[:15] for process in started][1:] == ["tritonserver", "triton_python_b"]
        run.kill()
        assert run.wait() == -signal.SIGKILL
    _, alive = psutil.wait_procs(started, timeout=PATIENCE_S)
    for process in alive:
        process.kill()
    assert not alive


# --- found ---


def no_server(python: Path) -> str:
    with pytest.raises(NoServerError) as caught:
        Installation.find(python)
    return str(caught.value)


def program(tmp_path: Path, content: str) -> Path:
    """In the place of an interpreter."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{content}\n")
    path.chmod(0o755)
    return path


def facts(**changes: str | None) -> str:
    """A program that answers as an environment would."""
    words = {"pytriton": "/p", "onnxruntime": "1.31.1", "onnx": "/o", "numpy": "2.4.6", "python": "3.11"} | changes
    listed = ", ".join(f'"{key}": ' + (f'"{value}"' if value else "null") for key, value in words.items())
    return f'echo \'{{{listed}, "libdir": "/l", "paths": []}}\''


def test_without_an_interpreter_there_is_no_server(tmp_path: Path) -> None:
    assert no_server(tmp_path / "python") == (
        f"no Triton: {tmp_path / 'python'} does not exist. "
        "Run `make serve-env`, or set TRITON_HTTP_URL to a server of your own."
    )


def test_an_interpreter_without_the_binary_is_no_server() -> None:
    assert f"no Triton: {sys.executable} has no pytriton. Run `make serve-env`" in no_server(Path(sys.executable))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pytriton": None}, "has no pytriton."),
        ({"onnxruntime": None}, "has no onnxruntime."),
        ({"onnx": None}, "has no onnx."),
        ({"numpy": "1.26.4"}, "has NumPy 1.26.4, and 2 or newer is needed."),
        ({"numpy": None}, "has NumPy None, and 2 or newer is needed."),
        ({"python": "3.99"}, "its Python backend has no stub for Python 3.99"),
    ],
    ids=str,
)
def test_an_environment_that_lacks_something_is_no_server(
    tmp_path: Path, changes: dict[str, str | None], says: str
) -> None:
    assert says in no_server(program(tmp_path, facts(**changes)))


def test_an_interpreter_that_fails_is_no_server(tmp_path: Path) -> None:
    path = program(tmp_path, "echo first >&2; echo the last words >&2; exit 3")
    assert no_server(path) == f"no Triton: {path} fails: the last words"


@pytest.mark.parametrize("content", ["exit 3", "kill -9 $$"])
def test_an_interpreter_that_fails_without_a_word_is_no_server(tmp_path: Path, content: str) -> None:
    path = program(tmp_path, content)
    assert f"no Triton: {path} fails" in no_server(path)


@pytest.mark.parametrize("content", ["", "echo hello"])
def test_a_program_that_is_no_interpreter_is_no_server(tmp_path: Path, content: str) -> None:
    assert "no Triton: " in no_server(program(tmp_path, content))


def test_what_cannot_be_executed_is_no_server(tmp_path: Path) -> None:
    assert "no Triton: " in no_server(tmp_path)
    path = program(tmp_path, "")
    path.chmod(0o644)
    assert "no Triton: " in no_server(path)


@pytest.mark.parametrize("path", [None, ""])
def test_the_server_finds_its_shell_whatever_path_it_is_started_with(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, path: str | None
) -> None:
    """Without one the Python backend starts no model, and the server waits for ever."""
    monkeypatch.delenv("PATH") if path is None else monkeypatch.setenv("PATH", path)
    assert shutil.which("bash", path=installation.environment("24.08")["PATH"])


# --- reached ---


def endpoint(**environment: str) -> Endpoint | None:
    return ServerAccess.of(None, environment=environment).endpoint


@pytest.mark.parametrize(
    ("environment", "where"),
    [
        ({"TRITON_HTTP_URL": "h:8000"}, Endpoint("h:8000", "h:8001")),
        ({"TRITON_HTTP_URL": "http://h:8000"}, Endpoint("h:8000", "h:8001")),
        ({"TRITON_HTTP_URL": "http://h:8000/"}, Endpoint("h:8000", "h:8001")),
        ({"TRITON_HTTP_URL": "192.0.2.7:80"}, Endpoint("192.0.2.7:80", "192.0.2.7:81")),
        ({"TRITON_HTTP_URL": "h:8000", "TRITON_GRPC_URL": "g:9000"}, Endpoint("h:8000", "g:9000")),
        ({"TRITON_HTTP_URL": ""}, None),
        ({}, None),
    ],
    ids=str,
)
def test_a_server_is_named_by_the_environment(environment: dict[str, str], where: Endpoint | None) -> None:
    assert endpoint(**environment) == where
    assert where is None or where.hosts == (where.http.split(":")[0], where.grpc.split(":")[0])


BAD_ADDRESSES = ["h", ":8000", "h:", "h:port", "h:-1", "http://", "h:8000/v2", "https://h:8000", "grpc://h:8001"]


@pytest.mark.parametrize("value", [*BAD_ADDRESSES, "h:0", "h:65536", "h:99999999999"])
def test_an_address_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(InputError) as caught:
        endpoint(TRITON_HTTP_URL=value)
    says = f"TRITON_HTTP_URL: value={value!r}, expected host:port, such as localhost:8000."
    assert str(caught.value).startswith(says)
    with pytest.raises(InputError, match=f"TRITON_GRPC_URL: value={value!r}"):
        endpoint(TRITON_HTTP_URL="h:8000", TRITON_GRPC_URL=value)


def test_access_keeps_what_it_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    access = ServerAccess.of("python", load_levels=True, environment={})
    assert access == ServerAccess(tmp_path / "python", None, True)
    with pytest.raises(NoServerError, match="does not exist"):
        access.require()
    with pytest.raises(NoServerError, match="does not exist"):
        access.serve(tmp_path)


def test_a_server_of_somebody_else_needs_no_installation(tmp_path: Path) -> None:
    access = ServerAccess(tmp_path / "absent", Endpoint("h:1", "h:2"))
    access.require()
    assert type(access.serve(tmp_path)) is RunningServer


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_closed_port_is_no_server() -> None:
    address = f"127.0.0.1:{closed_port()}"
    says = f"^TRITON_HTTP_URL={address}: no server there that is ready$"
    with pytest.raises(ServerError, match=says), RunningServer(Endpoint(address, address)):
        pass


def test_a_port_that_speaks_something_else_is_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        said = subprocess.Popen(
            [sys.executable, "-c", "import socket, sys; socket.socket(fileno=0).accept()[0].sendall(b'SSH-2.0')"],
            stdin=other.fileno(),
        )
        with pytest.raises(ServerError, match="no server there"), RunningServer(Endpoint(address, address)):
            pass
        assert said.wait(PATIENCE_S) == 0


def enter_server_at(address: str) -> None:
    found = endpoint(TRITON_HTTP_URL=address)
    assert found is not None
    with RunningServer(found):
        pass


def test_an_address_of_ipv6_is_refused_in_words() -> None:
    with pytest.raises((InputError, ServerError)):
        enter_server_at(f"[::1]:{closed_port()}")
