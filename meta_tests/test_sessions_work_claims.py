"""fixtures.sessions.work_claims: a worker takes what is free, and leaves a variant to the worker that has loaded it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest

from fixtures.cases import Case
from fixtures.parallel.claims import Claims, Selection, begin_claims, read_selection
from fixtures.records import Memory, MemoryCase
from fixtures.results.reading import read_run
from fixtures.results.run_folder import RunFolder
from fixtures.sessions import work_claims
from fixtures.sessions.work_claims import LATENCY, MEMORY, WorkClaims
from meta_tests.cases import cases_of_sizes
from meta_tests.conftest import SMALL_SPEC, Suite

READ = Memory(source="fresh_process", rss_mb={"before": 1.0, "steady": 3.0})


def work_claims_of(folder: Path, worker: str, cases: Sequence[Case]) -> WorkClaims:
    """Of one of the workers that the folder names, which has no memory pass to make."""
    return WorkClaims(Claims(folder, worker), mock.Mock(shared_memory={}), [(LATENCY, case) for case in cases])


@pytest.fixture
def two_of_one_variant(tmp_path: Path) -> tuple[list[Case], WorkClaims, WorkClaims]:
    """The two cases of a variant, the worker that has taken the first of them, and a worker that has taken none."""
    cases = cases_of_sizes(tmp_path, [64], batches=2)
    begin_claims(tmp_path, ["gpu0", "gpu1"])
    owner, helper = (work_claims_of(tmp_path, name, cases) for name in ("gpu0", "gpu1"))
    assert owner.left_to(LATENCY, cases[0]) is None
    return cases, owner, helper


def test_worker_leaves_the_last_case_of_a_variant_to_the_worker_that_has_it_loaded(
    two_of_one_variant: tuple[list[Case], WorkClaims, WorkClaims],
) -> None:
    cases, owner, helper = two_of_one_variant
    started = time.monotonic()
    with ThreadPoolExecutor() as pool:
        helped = pool.submit(helper.left_to, LATENCY, cases[1])
        time.sleep(0.3)
        assert not helped.done()
        assert owner.left_to(LATENCY, cases[1]) is None
        assert helped.result() == "gpu0"
    assert time.monotonic() - started < work_claims._LOADING_S, "waits no longer than until the case is claimed"


def test_worker_waits_no_longer_than_loading_takes(
    two_of_one_variant: tuple[list[Case], WorkClaims, WorkClaims], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_claims, "_LOADING_S", 0.2)
    cases, owner, helper = two_of_one_variant
    started = time.monotonic()
    assert helper.left_to(LATENCY, cases[1]) is None
    assert time.monotonic() - started >= 0.2
    assert owner.left_to(LATENCY, cases[1]) == "gpu1"


def test_worker_takes_a_variant_that_no_other_worker_has_loaded_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("waits"))
    cases = cases_of_sizes(tmp_path, [64, 96], batches=3)
    begin_claims(tmp_path, ["gpu0", "gpu1"])
    first, second = (work_claims_of(tmp_path, name, cases) for name in ("gpu0", "gpu1"))
    assert first.left_to(LATENCY, cases[0]) is None, "of three, two are free"
    assert second.left_to(LATENCY, cases[2]) is None
    assert second.left_to(LATENCY, cases[1]) is None, "has it loaded now"
    assert first.left_to(LATENCY, cases[3]) is None
    third = work_claims_of(tmp_path, "gpu2", cases)
    assert third.left_to(LATENCY, cases[4]) is None, "another one is free"
    alone = cases_of_sizes(tmp_path, [128], batches=1)
    assert work_claims_of(tmp_path / "alone", "gpu1", alone).left_to(LATENCY, alone[0]) is None, "a variant of one case"


def test_worker_takes_a_case_that_its_owner_has_passed_at_once(
    two_of_one_variant: tuple[list[Case], WorkClaims, WorkClaims], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner came to the case while the helper was making its memory pass, and does not come back."""
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("waits"))
    cases, _, helper = two_of_one_variant
    helper._claims.claim(MEMORY, cases[1].id)
    assert helper.left_to(LATENCY, cases[1]) is None


def test_worker_skips_cases_claimed_by_another(suite: Suite, small_spec: Path) -> None:
    """gpu1 has made the memory pass of midas, and is still at that of raft."""
    run = suite.folder / "out" / "r"
    claims = Claims(run / "claims", "gpu1")
    ids = ("midas_small_64-b1-fp32-torch", "raft_small_128-b1-fp32-torch")
    for case_id in ids:
        claims.claim("test_memory", case_id)
    read = MemoryCase(case_id=ids[0], status="ok", memory=READ, notes=("read by gpu1",))
    RunFolder.create(suite.folder / "out", "gpu1").append_memory(read)
    small_spec.write_text(
        SMALL_SPEC + "  - {name: m, family: midas, model: MiDaS_small, height: 64, width: 64, gpu: H100}\n"
        "  - {name: n, family: midas, model: MiDaS_small, height: 64, width: 64}\n"
    )
    arguments = ("--spec", str(small_spec), "--claims", str(run / "claims"), "--run-id", "gpu0", "-rs", "-k", "b1")
    ended = suite.run(*arguments, "--variants", "midas_small_64,raft_small_128,m")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    skipped = [line.split(":")[0] for line in ended.stdout.splitlines() if line.endswith(": measured by gpu1")]
    assert skipped == ["SKIPPED [2] bench_tests/test_memory.py", "SKIPPED [1] bench_tests/test_latency.py"]
    assert "variant m asks for H100, this is cpu" in ended.stdout
    summary = read_run(suite.folder / "out" / "gpu0")
    assert summary.complete is True
    (case,) = summary.cases
    assert (case.id, case.memory, case.notes[0]) == (read.case_id, READ, "read by gpu1")
    assert claims.owner("test_latency", ids[1]) is None, "the worker that makes the memory pass of a case also times it"
    assert read_selection(run / "claims") == Selection(memory=ids, latency=ids)
