"""fixtures/decision/server.py: only what the server of a spec runs competes, and is built from a choice."""

from __future__ import annotations

from typing import Any

import pytest

from fixtures.decision import choose
from fixtures.decision.server import Server, server_of_run, server_of_spec
from fixtures.errors import InputError
from fixtures.records import CaseSummary
from fixtures.spec import spec_from
from meta_tests.runs import bounds, row, run_of

BY_PYTORCH = {"package_backend": "torch_aoti"}
TENSORRT = {"accelerator": "tensorrt"}
GPU = {"device": "cuda", "torch": "2.11.0"}


def rows(*runtimes: str) -> list[CaseSummary]:
    """One row of each runtime, each faster than the one before."""
    return [row(p50=10.0 - index, runtime=runtime) for index, runtime in enumerate(runtimes)]


def winner(*runtimes: str, serving: dict[str, Any], triton: str = "26.03", **environment: Any) -> str:
    run = {"serving": serving, "target": {"triton": triton}}
    summary = run_of(*rows(*runtimes), run=run, environment={**GPU, **environment})
    return choose(summary, {}).roles[0].branches[0].candidate.runtime


@pytest.mark.parametrize(
    ("serving", "chosen"),
    [({}, "torch-aoti-graph"), (BY_PYTORCH, "torch-aoti"), (TENSORRT, "torch-aoti-graph")],
    ids=["python", "torch_aoti", "tensorrt"],
)
def test_graph_wins_only_where_the_server_captures_one(serving: dict[str, Any], chosen: str) -> None:
    assert winner("onnxruntime", "torch-aoti", "torch-aoti-graph", serving=serving) == chosen


@pytest.mark.parametrize(("serving", "chosen"), [({}, "onnxruntime"), (TENSORRT, "onnxruntime-tensorrt")])
def test_tensorrt_wins_only_where_the_server_has_it(serving: dict[str, Any], chosen: str) -> None:
    assert winner("onnxruntime", "onnxruntime-tensorrt", serving=serving) == chosen


def test_accelerator_makes_no_difference_on_a_cpu() -> None:
    assert winner("torch", "onnxruntime", serving=TENSORRT, device="cpu") == "onnxruntime"


@pytest.mark.parametrize(
    ("triton", "torch", "chosen"),
    [("26.03", "2.11.0", "torch-aoti"), ("26.03", "2.15.0", "onnxruntime"), ("26.05", "2.11.0", "onnxruntime")],
)
def test_packages_win_only_where_the_pytorch_backend_has_their_torch(triton: str, torch: str, chosen: str) -> None:
    assert winner("onnxruntime", "torch-aoti", serving=BY_PYTORCH, triton=triton, torch=torch) == chosen


def test_runtimes_of_a_cpu_are_those_that_run_there() -> None:
    assert Server(on_gpu=False).runtimes("v") == ["onnxruntime", "triton", "torch-aoti", "triton-aoti"]


def test_row_that_the_server_does_not_run_is_rejected_with_the_reason() -> None:
    summary = run_of(*rows("onnxruntime", "torch-aoti-graph"), run={"serving": BY_PYTORCH}, environment=GPU)
    (role,) = choose(summary, {}).roles
    (rejected,) = role.rejected
    assert bounds(role)[rejected.case_id] == "not_servable"
    assert "served with `package_backend: python`, and the spec says torch_aoti" in rejected.reason
    (branch,) = role.branches
    assert [one.runtime for one in branch.references] == ["torch-aoti-graph"]


def test_variant_may_have_a_server_of_its_own() -> None:
    run = {"serving": {}, "variants": {"v": {"serving": BY_PYTORCH}, "w": {"serving": None}}}
    server = server_of_run(run_of(row("v"), run=run, environment=GPU))
    assert "package_backend" in (server.why_not("torch-aoti-graph", "v") or "")
    assert server.why_not("torch-aoti-graph", "w") is None


@pytest.mark.parametrize("run", [{}, {"serving": None, "target": None, "variants": None}, {"target": {"triton": 5}}])
def test_run_that_says_nothing_of_its_server_is_served_as_usual(run: dict[str, Any]) -> None:
    assert server_of_run(run_of(row(), run=run, environment=GPU)) == Server(torch="2.11.0")


def test_unreadable_serving_of_a_run_is_one_message() -> None:
    with pytest.raises(InputError, match=r"run run: serving: content=unreadable, expected that of a spec"):
        server_of_run(run_of(row(), run={"serving": {"accelerator": "abacus"}}))


def test_server_of_a_spec_is_that_of_its_keys() -> None:
    variant = {"name": "v", "family": "midas", "model": "MiDaS_small", "height": 64, "width": 64}
    data = {"schema_version": 1, "name": "s", "dtype": "fp16", "runtimes": ["torch"], "target": {"triton": "26.05"}}
    server = server_of_spec(spec_from({**data, "serving": BY_PYTORCH, "variants": [variant]}, "spec"), GPU)
    assert (
        server.why_not("torch-aoti", "v")
        == "Triton 26.05 has torch 2.12, and a package needs the one that compiled it, 2.11.0"
    )
    assert "torch-aoti" not in server.runtimes("v")
