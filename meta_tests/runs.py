"""Runs that were never measured: rows with the figures that a test wants, and the tools that read them."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jsonschema
from hypothesis import strategies as st

from fixtures.decision import choose
from fixtures.records import CaseSummary, Choice, Latency, Memory, RoleChoice, Summary, WeightsRecord
from fixtures.spec.budget import Budget
from meta_tests.conftest import ROOT, Ended
from tools import command_line

CONTEXT_MB = 500.0
MACHINE: dict[str, Any] = {
    "device": "cuda",
    "gpu": "NVIDIA H200",
    "gpu_memory_mb": 143771.0,
    "driver": "580.159.04",
    "cuda": "13.0",
    "torch": "2.11.0",
    "cpu": "a host's",
}


HOSTILE = st.sampled_from(
    [1e308, -1e308, 5e-324, 1e-305, -1, 0, 10**400, -(10**400), float("nan"), float("inf"), True, None, "[/b]"]
)


Place = tuple[str | int, ...]


def in_every_place(places: Sequence[Place], values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    """A value for each place of a document: pairs of both. A few examples of it try each place with several values."""
    return st.tuples(*(st.tuples(st.just(place), values) for place in places))


def require_schema(document: object, name: str) -> None:
    """Raises ValidationError where a document does not fit one of specs/schema."""
    _validator(name).validate(document)


@functools.cache
def _validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((ROOT / "specs" / "schema" / f"{name}.schema.json").read_text()))


def with_value(document: Any, place: Place, value: object) -> str:
    """A JSON document with another value in one place."""
    changed = parent = copy.deepcopy(document)
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = value
    return json.dumps(changed, default=str)


def latency(p50: float, p95: float | None = None, p90: float | None = None) -> Latency:
    """Figures with this median; the others follow unless they are given."""
    high = p50 * 1.02 if p95 is None else p95
    p90 = p50 * 1.01 if p90 is None else p90
    return Latency(p50=p50, p90=p90, p95=high, p99=None, mean=p50, std=0.0, min=p50, max=high)


def on_gpu(above_context_mb: float) -> Memory:
    """Memory of a fresh process that needs so much above its context."""
    stages = {"before": 0.0, "context": CONTEXT_MB, "steady": CONTEXT_MB + above_context_mb}
    return Memory(source="fresh_process", gpu_used_mb=stages)


def row(
    variant: str = "depth_256", batch: int = 1, p50: float = 10.0, memory_mb: float | None = 400.0, **facts: Any
) -> CaseSummary:
    """A row of a run: of a depth network at 256 by 256, in fp16 by torch, unless `facts` say otherwise.

    `size` is the length of both sides, `p95` and `p90` are of the latency, `synthetic` is of the weights (None: not
    known); other facts are fields of the record.
    """
    size, synthetic = facts.pop("size", 256), facts.pop("synthetic", False)
    figures = latency(p50, facts.pop("p95", None), facts.pop("p90", None))
    timed = facts.get("status", "ok") in ("ok", "unstable")
    known: dict[str, Any] = {
        "variant": variant,
        "batch": batch,
        "runtime": "torch",
        "device": "cuda",
        "dtype_requested": "fp16",
        "dtype_used": "fp16",
        "status": "ok",
        "unit": "frame",
        "component_id": "visual.core_depth_midas",
        "role": "depth",
        "input_bucket": {"height": size, "width": size},
        "weights": None if synthetic is None else WeightsRecord(sha256="0" * 64, synthetic=synthetic),
        "memory": None if memory_mb is None else on_gpu(memory_mb),
        "rounds": 100 if timed else 0,
        "latency_ms": figures if timed else None,
    }
    known |= facts
    known.setdefault("id", f"{variant}-b{batch}-{known['dtype_used']}-{known['runtime']}")
    return CaseSummary(**known)


def ladder(*sizes: int) -> list[CaseSummary]:
    """A branch for each size, which costs what its pixels cost."""
    return [row(f"depth_{size}", p50=size * size / 1e4, size=size, memory_mb=float(size)) for size in sizes]


def run_of(*cases: CaseSummary, **header: Any) -> Summary:
    """A complete run of these rows on one machine."""
    known: dict[str, Any] = {"run_id": "run", "complete": True, "environment": MACHINE, "table": {}}
    return Summary(cases=cases, **{**known, **header})


def stored(folder: Path, *cases: CaseSummary, **header: Any) -> Path:
    """The same as a folder on disk; returns it."""
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(run_of(*cases, **{"run_id": folder.name, **header}).model_dump_json())
    return folder


def choice_of(*cases: CaseSummary, **budget: Any) -> RoleChoice:
    """What is decided for the one role of these rows."""
    (role,) = choose(run_of(*cases), {cases[0].role or "": Budget(**budget)}).roles
    return role


def chosen(role: RoleChoice | Choice) -> dict[str, str]:
    """Place → case id of what was chosen, of one role."""
    (one,) = role.roles if isinstance(role, Choice) else (role,)
    return {branch.place: branch.candidate.case_id for branch in one.branches}


def bounds(role: RoleChoice) -> dict[str, str]:
    """Case id → the bound by which it was rejected."""
    return {one.case_id: one.bound for one in role.rejected}


def ended(main: Callable[[], int], *arguments: str | Path) -> Ended:
    """What a person sees of a tool, run in this process; whatever it raises is raised here."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", ["tool", *map(str, arguments)]),
    ):
        try:
            command_line.run(main)
        except SystemExit as exit_:
            code = exit_.code
    assert isinstance(code, int)
    return Ended(code, out.getvalue(), err.getvalue())


def is_one_message(said: str) -> bool:
    """Whether bad input ended as it should: where, what, rule and next step, in one message."""
    return (
        said.startswith("ERROR: ")
        and said.count("\n") == 1
        and ", expected " in said
        and said.endswith((".\n", "?\n", ")\n"))
    )
