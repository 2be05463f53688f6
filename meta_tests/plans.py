"""Plans of sessions on a CPU, for tests that measure nothing, and outcomes of their cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fixtures.cases import Case
from fixtures.declarations import declaration
from fixtures.manifest import measured_file
from fixtures.records import CaseFacts, MeasuredFile, MemoryCase
from fixtures.results.rows import CaseResult
from fixtures.sessions.options import Options
from fixtures.sessions.plan import Plan, make_plan
from fixtures.subject import locate_checkpoint


def plan_of(folder: Path, text: str, root: Path, **options: Any) -> Plan:
    """The plan of a spec that is written to a folder, where its runs go, too; with weights of a bundle."""
    path = folder / "spec.yaml"
    path.write_text(text)
    known: dict[str, Any] = {"run_id": "r", "device": "cpu", "offline": False, "out": str(folder / "out")}
    known |= {"spec": str(path), "models_root": str(root)}
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
        dtype_used="fp32",
        file=_file_of(plan, case),
    )
    return CaseResult(facts, rounds_ms or (1.0, 2.0))


def memory_of(plan: Plan, case: Case) -> MemoryCase:
    """The memory pass of a case."""
    weights = plan.bundle.weights(locate_checkpoint(case.variant, plan.bundle)).record
    return MemoryCase(case_id=case.id, status="ok", weights=weights, file=_file_of(plan, case))


def _file_of(plan: Plan, case: Case) -> MeasuredFile | None:
    if declaration(case.runtime).file is None:
        return None
    return measured_file(plan.onnx_dir, case.export.file, "cpu", "fp32")
