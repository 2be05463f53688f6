"""Plans of sessions on a CPU, for tests that measure nothing, and outcomes of their cases."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from fixtures.cases import Case
from fixtures.records import CaseFacts, MemoryCase
from fixtures.results.rows import CaseResult
from fixtures.sessions.options import Options
from fixtures.sessions.plan import Plan, make_plan
from fixtures.subject import locate_checkpoint


@pytest.fixture
def own_environment() -> Iterator[None]:
    """What a session sets in the environment of its process is unset after the test."""
    with mock.patch.dict(os.environ):
        yield


def plan_of(folder: Path, spec: str, models_root: Path, **options: Any) -> Plan:
    """The plan of a spec that is written to a folder, where its runs go, too."""
    path = folder / "spec.yaml"
    path.write_text(spec)
    known: dict[str, Any] = {"run_id": "r", "device": "cpu", "offline": False, "out": str(folder / "out")}
    known |= {"spec": str(path), "models_root": str(models_root)}
    return make_plan(Options(**{**known, **options}))


def result_of(plan: Plan, case: Case, *rounds_ms: float) -> CaseResult:
    """A case that was measured with these rounds."""
    variant = case.variant
    weights = plan.bundle.weights(locate_checkpoint(variant, plan.bundle)).record
    facts = CaseFacts(
        id=case.id,
        variant=variant.name,
        batch=case.batch,
        runtime=case.runtime,
        device="cpu",
        status="ok",
        weights=weights,
    )
    return CaseResult(facts, rounds_ms or (1.0, 2.0))


def memory_of(plan: Plan, case: Case) -> MemoryCase:
    """The memory pass of a case."""
    weights = plan.bundle.weights(locate_checkpoint(case.variant, plan.bundle)).record
    return MemoryCase(case_id=case.id, status="ok", weights=weights)
