"""A live server as its clients see it: configuration, answers, refusals, load, reload, restart."""

from __future__ import annotations

import json
import time
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection

import numpy as np
import pytest

from fixtures.export.accuracy import FLOORS, relative_error
from fixtures.records import ServedProtocol
from fixtures.sessions.serve_session import ServeSession
from fixtures.triton.branches import ServedBranch, ServedModel
from fixtures.triton.client import REQUEST_TIMEOUT_S, TRITON_DTYPES, Array, RequestRefused, open_client
from fixtures.triton.config import read_config
from fixtures.triton.load import LoadTarget, closed_loop

pytestmark = pytest.mark.on_server

PROTOCOLS: tuple[ServedProtocol, ...] = ("http", "grpc", "grpc+shm")
CONCURRENCY = 8  # judgment: enough that answers overtake each other; the top of the default load levels
# Judgment: a server whose memory grows by 64 MiB in 1000 requests needs 60 GiB for a million. Arenas stop growing
# during the CONCURRENCY requests before the measurement.
MOST_GROWTH_MB = 64
UNLOADED_S = 60  # judgment: unloading takes milliseconds; a GPU may have to finish requests first
MIB = 1024**2


def test_live_configuration(branch: ServedBranch, serving: ServeSession) -> None:
    """Every model is ready and runs with the written names, dtypes, shapes and options."""
    differences = []
    for role, model in branch.models.items():
        if role == "fused" and not serving.has_fused(branch):
            continue
        assert serving.live.is_ready(model.name), f"{model.name} is not ready"
        differences += serving.live.metadata_differences(model.name, model.inputs, model.outputs)
        written = (serving.repository / model.name / "config.pbtxt").read_text()
        differences += serving.live.config_differences(read_config(written))
    if differences:
        pytest.fail("\n".join(differences), pytrace=False)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_golden_frames(branch: ServedBranch, serving: ServeSession, protocol: ServedProtocol) -> None:
    """A client's answers are those of the float64 module, as closely as torch computes them in the same class."""
    if protocol == "grpc+shm" and serving.own_server is None:
        pytest.skip("needs a server on this machine; TRITON_HTTP_URL may name another machine")
    gate = serving.gate(branch)
    models = [branch.requested, *([branch.models["fused"]] if serving.has_fused(branch) else [])]
    with open_client(serving.server.endpoint, protocol) as client:
        answers = [gate.evaluate(partial(client.infer, model)) for model in models]
    for model, evaluation in zip(models, answers, strict=True):
        if problems := gate.problems_of(evaluation):
            pytest.fail(f"{model.name} over {protocol}:\n" + "\n".join(problems), pytrace=False)
    kind = serving.live.kind(branch.computing.name)
    serving.waterfalls[f"{branch.name} over {protocol}"] = gate.waterfall(f"Triton ({kind})", answers[0].outputs)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("wrong", ["dtype", "size", "NCHW", "input missing", "unknown name", "one item too many"])
def test_wrong_requests_are_refused(
    branch: ServedBranch, serving: ServeSession, protocol: ServedProtocol, wrong: str
) -> None:
    """The message names the model or the input, and the server answers the next request as before."""
    model, frames = branch.requested, serving.input_sets(branch)[0]
    if wrong == "NCHW" and branch.normalization is None:
        pytest.skip(f"needs frames; {branch.name} has none")
    with open_client(serving.server.endpoint, protocol) as client:
        before = client.infer(model, frames)
        named = _named(model, frames)
        with pytest.raises(RequestRefused) as refused:
            client.send(model.name, _made_wrong(wrong, model, named), [model.outputs[0].name])
        message = str(refused.value)
        assert model.name in message or any(name in message for name in named), message
        assert serving.live.is_live()
        np.testing.assert_array_equal(client.infer(model, frames), before)


@pytest.mark.parametrize("extra_mib", [1, 64])
def test_an_oversized_body_is_refused(branch: ServedBranch, serving: ServeSession, extra_mib: int) -> None:
    """A body longer than its frames gets a client error, and the server answers the next request."""
    model, frames = branch.requested, serving.input_sets(branch)[0]
    header, body = _http_request(model, frames)
    status, answer = _post(serving, model, header, body + b"\0" * (extra_mib * MIB))
    assert HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR, answer
    assert "error" in answer
    status, answer = _post(serving, model, header, body)
    assert status == HTTPStatus.OK, answer


def test_every_answer_is_that_of_its_request(branch: ServedBranch, serving: ServeSession) -> None:
    """Eight clients at once: each answer is that of its own inputs and of the file in one process; memory stays."""
    protocol: ServedProtocol = "grpc" if serving.own_server is None else "grpc+shm"
    model, sets = branch.requested, serving.input_sets(branch, serving.requests)
    expected = _answers_alone(branch, serving, protocol, sets)
    tolerance = FLOORS[branch.export.dtype]
    wrong: list[str] = []

    def check(index: int, answer: Array) -> None:
        error = relative_error(answer.astype(np.float64), expected[index].astype(np.float64))
        if not error <= tolerance:
            wrong.append(f"input set {index}: error={error:.3g}, expected at most {tolerance:g}")

    target = LoadTarget(serving.server.endpoint, protocol, model, sets)
    closed_loop(target, CONCURRENCY, CONCURRENCY)  # the arenas grow here
    before = _memory_mb(serving)
    load = closed_loop(target, CONCURRENCY, serving.requests, check)
    assert not wrong, f"{len(wrong)} of {len(load.latencies_ms)} answers are wrong: {wrong[0]}"
    assert len(load.latencies_ms) == serving.requests
    assert _memory_mb(serving) - before < MOST_GROWTH_MB
    serving.loads.append(
        f"{branch.name}: {serving.requests} answers to {len(sets)} different requests at concurrency {CONCURRENCY} "
        f"over {protocol}, none wrong"
    )


def _answers_alone(
    branch: ServedBranch, serving: ServeSession, protocol: ServedProtocol, sets: list[tuple[Array, ...]]
) -> list[Array]:
    """A server's answers to one client, which are those of the file in this process, and differ from each other."""
    gate = serving.gate(branch)
    preprocess = branch.models.get("preprocess")
    file = serving.repository / preprocess.name / "1" / "model.onnx" if preprocess else None
    in_process, most = gate.in_process(file), gate.most_difference
    answers: list[Array] = []
    with open_client(serving.server.endpoint, protocol) as client:
        for index, inputs in enumerate(sets):
            answer = client.infer(branch.requested, inputs)
            error = relative_error(answer.astype(np.float64), in_process(inputs).astype(np.float64))
            assert error <= most, f"input set {index}: error={error:.3g} from the file in one process, over {most:.3g}"
            # Requests that are served at the same time stand next to each other.
            for other in answers[-2 * CONCURRENCY :]:
                assert relative_error(answer.astype(np.float64), other.astype(np.float64)) > 2 * most, (
                    "two input sets have the same answer: a swap of answers would go unseen"
                )
            answers.append(answer)
    return answers


def test_reload(branch: ServedBranch, serving: ServeSession) -> None:
    """An unloaded branch is refused with a message that names it; reloaded, it answers as before."""
    model, frames = branch.requested, serving.input_sets(branch)[0]
    with open_client(serving.server.endpoint, "http") as client:
        before = client.infer(model, frames)
        try:
            serving.live.unload(model.name)
        except RequestRefused as error:
            pytest.skip(f"needs --model-control-mode=explicit: {error}")
        _wait_until_unloaded(serving, model)
        with pytest.raises(RequestRefused, match=model.name):
            client.infer(model, frames)
        serving.live.load(model.name)
        np.testing.assert_array_equal(client.infer(model, frames), before)


def test_restart(branch: ServedBranch, serving: ServeSession) -> None:
    """A server answers after a restart as before."""
    server = serving.own_server
    if server is None:
        pytest.skip("needs a server that this run started; TRITON_HTTP_URL names another one")
    model, frames = branch.requested, serving.input_sets(branch)[0]
    with open_client(server.endpoint, "http") as client:
        before = client.infer(model, frames)
    serving.restart()
    with open_client(server.endpoint, "http") as client:
        np.testing.assert_array_equal(client.infer(model, frames), before)


def _named(model: ServedModel, frames: tuple[Array, ...]) -> dict[str, Array]:
    return {tensor.name: frame for tensor, frame in zip(model.inputs, frames, strict=True)}


def _made_wrong(wrong: str, model: ServedModel, named: dict[str, Array]) -> dict[str, Array]:
    """The inputs of a request with one mistake, as clients make them."""
    first, last = model.inputs[0].name, model.inputs[-1].name
    frame = named[first]
    if wrong == "input missing":
        return {name: array for name, array in named.items() if name != last}
    if wrong == "unknown name":
        return {"frames" if name == first else name: array for name, array in named.items()}
    changed = {
        "dtype": frame.astype(np.float64 if frame.dtype == np.float32 else np.float32),
        "size": np.repeat(frame, 2, axis=1),
        "NCHW": np.ascontiguousarray(np.moveaxis(frame, -1, 1)),
        "one item too many": np.concatenate((frame, frame[:1])),
    }
    return {**named, first: changed[wrong]}


def _http_request(model: ServedModel, frames: tuple[Array, ...]) -> tuple[bytes, bytes]:
    """The JSON header of a request, and its whole body: the header followed by the frames."""
    inputs = [
        {
            "name": tensor.name,
            "datatype": TRITON_DTYPES[tensor.dtype],
            "shape": list(frame.shape),
            "parameters": {"binary_data_size": frame.nbytes},
        }
        for tensor, frame in zip(model.inputs, frames, strict=True)
    ]
    outputs = [{"name": model.outputs[0].name, "parameters": {"binary_data": True}}]
    header = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
    return header, header + b"".join(frame.tobytes() for frame in frames)


def _post(serving: ServeSession, model: ServedModel, header: bytes, body: bytes) -> tuple[int, str]:
    """Status and first bytes of the answer to a raw body, which a client library would refuse to send."""
    connection = HTTPConnection(serving.server.endpoint.http, timeout=REQUEST_TIMEOUT_S)
    try:
        lengths = {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"}
        connection.request("POST", f"/v2/models/{model.name}/infer", body, lengths)
        answer = connection.getresponse()
        return answer.status, answer.read(200).decode(errors="replace")
    finally:
        connection.close()


def _memory_mb(serving: ServeSession) -> float:
    """Host memory in MiB of the server and its backends; 0 for a server whose processes are unknown."""
    return sum(process.memory_info().rss for process in serving.server.processes()) / MIB


def _wait_until_unloaded(serving: ServeSession, model: ServedModel) -> None:
    deadline = time.monotonic() + UNLOADED_S
    while serving.live.is_ready(model.name):
        assert time.monotonic() < deadline, f"{model.name} is still ready {UNLOADED_S} s after it was unloaded"
        time.sleep(0.05)
