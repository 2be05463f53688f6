"""Workers of one run share its cases: each is taken once, by whoever has the least to do for it."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.cases import Case, cases_of
from fixtures.parallel.claims import Claims, Selection, begin_claims, read_selection
from fixtures.parallel.schedule import claim_order, dearest_first
from fixtures.sessions import work_claims
from fixtures.sessions.work_claims import LATENCY, MEMORY, WorkClaims
from fixtures.spec import load_spec
from meta_tests.conftest import HANGS_S, SMALL_SPEC

# --- claims ---


def _claim_all(folder: Path, worker: str, barrier: Barrier, answers: Any) -> None:
    claims = Claims(folder, worker)
    barrier.wait()
    answers.put((worker, [claims.claim("test_latency", f"v{index}-b1") for index in range(200)]))


def test_of_eight_processes_one_has_each_case_and_all_know_which(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(8), context.Queue()
    names = [f"gpu{index}" for index in range(8)]
    processes = [
        context.Process(target=_claim_all, args=(tmp_path / "claims", name, barrier, answers)) for name in names
    ]
    for process in processes:
        process.start()
    said = dict(answers.get(timeout=HANGS_S) for _ in names)
    for process in processes:
        process.join()
    assert said.keys() == set(names)
    (owners,) = {tuple(answer) for answer in said.values()}
    assert set(owners) <= set(names)


def test_a_claim_that_its_worker_did_not_live_to_sign_is_nobodys_to_take(tmp_path: Path) -> None:
    claims = Claims(tmp_path, "gpu0")
    (tmp_path / "test_latency.v").touch()
    assert claims.owner("test_latency", "v") is None
    assert claims.claim("test_latency", "v") == "another worker"
    assert claims.owner("test_memory", "v") is None
    assert claims.claim("test_memory", "v") == claims.owner("test_memory", "v") == "gpu0"


def test_workers_are_those_that_the_run_has_named(tmp_path: Path) -> None:
    assert Claims(tmp_path, "gpu1").workers == ("gpu1",)
    begin_claims(tmp_path, ["gpu0", "gpu1"])
    assert Claims(tmp_path, "gpu1").workers == ("gpu0", "gpu1")
    assert Claims(tmp_path, "by-hand").workers == ("by-hand",), "a worker that nobody expects takes all in order"


# --- turns ---


def _cases(tmp_path: Path, sizes: Sequence[int], batches: int = 3) -> list[Case]:
    """Of variants a, b, …: square, of these sizes, and each at some batches."""
    entries = [
        f"  - {{name: {name}, family: midas, model: MiDaS_small, height: {size}, width: {size}}}\n"
        for name, size in zip("abcdefgh", sizes, strict=False)
    ]
    path = tmp_path / "spec.yaml"
    head = SMALL_SPEC[: SMALL_SPEC.index("  -")].replace("[1, 2]", str(list(range(1, batches + 1))))
    path.write_text(head + "".join(entries))
    return list(cases_of(load_spec(path)))


def test_a_worker_begins_with_variants_of_its_own_and_helps_from_the_other_end(tmp_path: Path) -> None:
    cases = _cases(tmp_path, [64, 96, 128], batches=2)
    workers = ("gpu0", "gpu1")
    first, second = ([f"{c.variant.name}{c.batch}" for c in claim_order(cases, name, workers)] for name in workers)
    assert first == ["c1", "c2", "a2", "a1", "b2", "b1"]
    assert second == ["b1", "b2", "a1", "a2", "c2", "c1"]
    assert [case.id for case in claim_order(cases, "gpu0", ("gpu0",))][:2] == [case.id for case in cases[4:]]
    helper = claim_order(cases[:2], "gpu1", workers)
    assert [case.batch for case in helper] == [2, 1], "of one variant, whoever has none takes the last case first"


@given(
    sizes=st.lists(st.sampled_from([64, 128, 512, 1024]), min_size=1, max_size=8),
    batches=st.integers(1, 6),
    workers=st.integers(1, 8),
    data=st.data(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_each_case_is_taken_once_and_workers_end_within_one_case_of_each_other(
    tmp_path: Path, sizes: list[int], batches: int, workers: int, data: st.DataObject
) -> None:
    """Whatever cases really take, where whoever is free takes the next one at once."""
    cases = _cases(tmp_path, sizes, batches)
    seconds = {case.id: data.draw(st.integers(1, 6000)) for case in cases}  # whole ones add up exactly
    names = [f"gpu{index}" for index in range(workers)]
    left = {name: claim_order(cases, name, names) for name in names}
    assert all(sorted(case.id for case in own) == sorted(seconds) for own in left.values())
    ended, taken = dict.fromkeys(names, 0.0), set[str]()
    while len(taken) < len(cases):
        name = min(names, key=lambda worker: ended[worker])
        case = next(case for case in left[name] if case.id not in taken)
        taken.add(case.id)
        ended[name] += seconds[case.id]
    assert max(ended.values()) - min(ended.values()) <= max(seconds.values())


# --- shares ---


def _share(folder: Path, worker: str, cases: Sequence[Case]) -> WorkClaims:
    """Of a worker that has named its place in a run of two, and has no memory to read."""
    return WorkClaims(Claims(folder, worker), mock.Mock(shared_memory={}), [(LATENCY, case) for case in cases])


@pytest.fixture
def two_of_one_variant(tmp_path: Path) -> tuple[list[Case], WorkClaims, WorkClaims]:
    """The two cases of a variant, its worker, which has taken the first of them, and a worker that helps."""
    cases = _cases(tmp_path, [64], batches=2)
    begin_claims(tmp_path, ["gpu0", "gpu1"])
    owner, helper = (_share(tmp_path, name, cases) for name in ("gpu0", "gpu1"))
    assert owner.left_to(LATENCY, cases[0]) is None
    return cases, owner, helper


def test_the_last_case_of_a_variant_is_left_to_whoever_has_it_loaded(
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
    assert time.monotonic() - started < work_claims._LOADING_S, "it goes on as soon as it knows"


def test_but_not_for_longer_than_loading_it_takes(
    two_of_one_variant: tuple[list[Case], WorkClaims, WorkClaims], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_claims, "_LOADING_S", 0.2)
    cases, owner, helper = two_of_one_variant
    started = time.monotonic()
    assert helper.left_to(LATENCY, cases[1]) is None
    assert time.monotonic() - started >= 0.2
    assert owner.left_to(LATENCY, cases[1]) == "gpu1"


def test_nobody_waits_for_what_nobody_has_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("waits"))
    cases = _cases(tmp_path, [64, 96], batches=3)
    begin_claims(tmp_path, ["gpu0", "gpu1"])
    first, second = (_share(tmp_path, name, cases) for name in ("gpu0", "gpu1"))
    assert first.left_to(LATENCY, cases[0]) is None, "of three, two are free"
    assert second.left_to(LATENCY, cases[2]) is None
    assert second.left_to(LATENCY, cases[1]) is None, "has it loaded now"
    assert first.left_to(LATENCY, cases[3]) is None
    third = _share(tmp_path, "gpu2", cases)
    assert third.left_to(LATENCY, cases[4]) is None, "another one is free"
    alone = _cases(tmp_path, [128], batches=1)
    assert _share(tmp_path / "alone", "gpu1", alone).left_to(LATENCY, alone[0]) is None, "a variant of one case"


def test_nobody_waits_for_who_has_passed_by(
    two_of_one_variant: tuple[list[Case], WorkClaims, WorkClaims], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner came to the case while the helper was reading its memory."""
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("waits"))
    cases, _, helper = two_of_one_variant
    helper._claims.claim(MEMORY, cases[1].id)
    assert helper.left_to(LATENCY, cases[1]) is None


# --- what comes first, and what was selected ---


def test_the_dearest_variant_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    text = SMALL_SPEC.replace("height: 128, width: 128", "height: 128, width: 128, batches: [1]")
    path.write_text(text)
    cases = cases_of(load_spec(path))
    assert dearest_first(cases) == ["midas_small_64", "raft_small_128"], "two cases, although smaller ones"
    path.write_text(text.replace("batches: [1]}", "batches: [1], runtimes: [torch-compile]}"))
    assert dearest_first(cases_of(load_spec(path))) == ["raft_small_128", "midas_small_64"]


def test_the_selection_is_what_any_worker_has_written(tmp_path: Path) -> None:
    assert read_selection(tmp_path) == Selection()
    selection = Selection(memory=("a-b1",), latency=("a-b1", "b-b1"))
    Claims(tmp_path, "gpu1").select(selection)
    assert read_selection(tmp_path) == selection
