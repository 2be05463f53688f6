"""Management of a server: its counters, and differences of its configuration from what was written."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable, Iterator
from itertools import chain, count, repeat
from typing import Any

import pytest
from tritonclient import http

from fixtures.triton.branches import Role
from fixtures.triton.client import open_client
from fixtures.triton.config import configs, read_config
from fixtures.triton.live import LiveServer, steps_between, why_not_there
from fixtures.triton.server import Endpoint, RunningServer, ServerError
from meta_tests.branches import recorded
from meta_tests.served import FAMILIES, SmallServer, frames_of

# A deprecation warning of a library is no defect of a server.
pytestmark = pytest.mark.filterwarnings("default:::tritonclient")


@pytest.fixture
def live(small_server: SmallServer) -> Iterator[LiveServer]:
    with LiveServer(small_server.endpoint) as live:
        yield live


def test_server_is_live_and_its_backend_emulated(live: LiveServer) -> None:
    assert live.is_live()
    assert live.kind("midas_64x96_onnx") == "emulated"


def test_models_of_the_repository_are_there(small_server: SmallServer, live: LiveServer) -> None:
    for branch in small_server.branches.values():
        assert [live.why_absent(model.name) for model in branch.models.values()] == [None] * len(branch.models)


NOT_LOADED = "the server has {} in its repository and has not loaded it"


def test_model_that_is_not_there_is_named(small_server: SmallServer, live: LiveServer) -> None:
    assert live.why_absent("another") == "the server's index lists no another"
    (small_server.repository / "another" / "1").mkdir(parents=True)
    try:
        assert live.why_absent("another") == NOT_LOADED.format("another")
    finally:
        shutil.rmtree(small_server.repository / "another")


def test_unloaded_model_is_not_there(small_server: SmallServer, live: LiveServer) -> None:
    fused = small_server.branches["midas"].models["fused"].name
    live.unload(fused)
    try:
        deadline = time.monotonic() + 30
        while live.why_absent(fused) is None and time.monotonic() < deadline:  # it unloads after it has answered
            time.sleep(0.01)
        assert live.why_absent(fused) == NOT_LOADED.format(fused)
    finally:
        live.load(fused)


def test_model_whose_loading_failed_is_there(monkeypatch: pytest.MonkeyPatch, live: LiveServer) -> None:
    """That it is not ready is a defect of the server, and no reason to skip its tests."""
    failed = {"name": "m", "version": "1", "state": "UNAVAILABLE", "reason": "Internal: unable to find 'model.onnx'"}
    monkeypatch.setattr(http.InferenceServerClient, "get_model_repository_index", lambda _: [failed])
    assert live.why_absent("m") is None


@pytest.mark.parametrize("absent", ["midas_64x96", "midas_64x96_onnx"])
def test_branch_that_a_named_server_has_not_is_named(monkeypatch: pytest.MonkeyPatch, absent: str) -> None:
    monkeypatch.setattr("fixtures.triton.live.is_ready", lambda _: True)
    monkeypatch.setattr(LiveServer, "why_absent", lambda _, model: f"no {model}" if model == absent else None)
    assert why_not_there(Endpoint("h:1", "h:2"), recorded()) == f"no {absent} (TRITON_HTTP_URL=h:1)"


def test_named_server_that_does_not_answer_skips_nothing() -> None:
    """The first test that asks it fails with the reason."""
    assert why_not_there(Endpoint("127.0.0.1:1", "127.0.0.1:2"), recorded()) is None


def test_running_server_keeps_running(small_server: SmallServer, live: LiveServer) -> None:
    with RunningServer(small_server.endpoint) as running:
        assert running.processes() == []
    assert live.is_ready("midas_64x96")


# --- counters ---


@pytest.mark.parametrize("name", FAMILIES)
def test_counters_count_the_requests_between_two_readings(
    small_server: SmallServer, live: LiveServer, name: str
) -> None:
    branch = small_server.branches[name]
    models = [branch.models[role].name for role in ("ensemble", "preprocess", "model", "fused")]
    before = live.counters(models)
    with open_client(small_server.endpoint, "http") as client:
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


def server_that_counts(monkeypatch: pytest.MonkeyPatch, counts: Iterator[int]) -> LiveServer:
    """A server whose counters hold the next number of requests, 2 ms each, at every reading."""

    def read(self: http.InferenceServerClient, model: str) -> dict[str, Any]:
        names = ("success", "queue", "compute_input", "compute_infer", "compute_output")
        number = next(counts)
        phases = {name: {"count": number, "ns": number * 2_000_000} for name in names}
        return {"model_stats": [{"inference_stats": phases}]}

    monkeypatch.setattr(http.InferenceServerClient, "get_inference_statistics", read)
    return LiveServer(Endpoint("localhost:1", "localhost:1"))


def test_request_that_is_counted_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with server_that_counts(monkeypatch, chain([7, 7], [7] * 20, repeat(8))) as late:
        (step,) = late.steps_since(late.counters(["midas"]), 1)
    assert (step.requests, step.total_ms) == (1, 2.0)


def test_answer_that_is_never_counted_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fixtures.triton.live._COUNTED_S", 0.05)
    with server_that_counts(monkeypatch, chain([7, 7], repeat(8))) as forgetful:
        before = forgetful.counters(["midas"])
        with pytest.raises(ServerError, match=r"answered 2 requests and counted \{'midas': 1\}"):
            forgetful.steps_since(before, 2)


def test_counters_that_never_settle_are_read_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other clients ask the server all the time."""
    monkeypatch.setattr("fixtures.triton.live._SETTLED_S", 0.05)
    with server_that_counts(monkeypatch, count(7)) as busy:
        assert busy.counters(["midas"])["midas"]["success"][0] > 7


# --- configuration and metadata ---


@pytest.mark.parametrize("role", ["preprocess", "model", "fused", "ensemble"])
@pytest.mark.parametrize("name", FAMILIES)
def test_model_runs_with_the_written_configuration(
    small_server: SmallServer, live: LiveServer, name: str, role: Role
) -> None:
    model = small_server.branches[name].models[role]
    assert live.is_ready(model.name)
    written = read_config((small_server.repository / model.name / "config.pbtxt").read_text())
    assert live.config_differences(written) == []
    assert live.metadata_differences(model.name, model.inputs, model.outputs) == []


Change = Callable[[Any], None]
CHANGES: dict[str, Change] = {
    "backend: onnxruntime, expected python": lambda config: setattr(config, "backend", "python"),
    "max_batch_size: 0, expected 8": lambda config: setattr(config, "max_batch_size", 8),
    "instance_group[0].count: 1, expected 2": lambda config: setattr(config.instance_group[0], "count", 2),
    "instance_group[0].kind: KIND_CPU, expected KIND_GPU": lambda config: setattr(config.instance_group[0], "kind", 1),
    "input[0].dims[2]: 64, expected 65": lambda config: config.input[0].dims.__setitem__(2, 65),
    "output[0].data_type: TYPE_FP32, expected TYPE_FP16": lambda config: setattr(config.output[0], "data_type", 10),
    "parameters.key.string_value: None, expected 1": lambda config: setattr(
        config.parameters["key"], "string_value", "1"
    ),
}


def written_config(small_server: SmallServer) -> Any:
    branch = small_server.branches["midas"]
    return copy.deepcopy(configs(branch, "cpu", fused=False)[branch.models["model"].name])


@pytest.mark.parametrize("says", CHANGES)
def test_configuration_that_differs_is_named(small_server: SmallServer, live: LiveServer, says: str) -> None:
    wanted = written_config(small_server)
    CHANGES[says](wanted)
    assert live.config_differences(wanted) == [f"{wanted.name}.{says}"]


def test_list_of_another_length_is_named(small_server: SmallServer, live: LiveServer) -> None:
    wanted = written_config(small_server)
    del wanted.output[:]
    wanted.output.add(name="one", data_type=11, dims=[1])
    wanted.output.add(name="two", data_type=11, dims=[1])
    (difference,) = live.config_differences(wanted)
    assert difference.startswith(f"{wanted.name}.output: [{{'name': ")
    assert "'two'" in difference


@pytest.mark.parametrize("changes", [{"name": "other"}, {"dtype": "FLOAT16"}, {"shape": (1, 3, 64, 97)}], ids=str)
def test_metadata_that_differ_are_named(small_server: SmallServer, live: LiveServer, changes: dict[str, Any]) -> None:
    model = small_server.branches["midas"].models["model"]
    inputs = [model.inputs[0].model_copy(update=changes)]
    (difference,) = live.metadata_differences(model.name, inputs, model.outputs)
    assert difference.startswith(f"{model.name}: inputs=[")
    assert str(changes.get("name") or changes.get("shape", ("FP16",))[-1]) in difference
    both = live.metadata_differences(model.name, [], [])
    assert [one.split("=")[0] for one in both] == [f"{model.name}: inputs", f"{model.name}: outputs"]
