"""fixtures/sessions/bench.py: what a case's record says beside its rounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.environment import environment
from fixtures.modalities.image import Image
from fixtures.records import MemoryCase
from fixtures.results.remarks import remarks
from fixtures.sessions.bench import Bench
from fixtures.sessions.run_log import RunLog
from meta_tests.conftest import SMALL_SPEC
from meta_tests.plans import plan_of

pytestmark = pytest.mark.usefixtures("own_environment")


def test_what_inputs_lose_is_in_log_and_record(
    tmp_path: Path, bundle_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "remarks", lambda *_: iter(["frames: 1 of 6 is cut"]))
    plan = plan_of(tmp_path, SMALL_SPEC, bundle_root)
    log = RunLog(plan, environment("cpu", None))
    case = plan.cases[0]
    log.record_memory(MemoryCase(case_id=case.id, status="oom", error="of a test", notes=("of memory",)))
    Bench(plan, log, None, lambda *_: None).latency(case)
    log.close()
    assert log.folder.read_summary().cases[0].notes == ("frames: 1 of 6 is cut", "of memory")
    assert f"{case.id}: frames: 1 of 6 is cut" in remarks(log.summary())
