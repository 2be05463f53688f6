"""fixtures.parallel.claims: of several processes exactly one gets a case, and all know which."""

from __future__ import annotations

import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from fixtures.parallel import claims as claims_module
from fixtures.parallel.claims import Claims, Selection, begin_claims, read_selection

ANSWERS_S = 60


def _claim_all(folder: Path, worker: str, barrier: Barrier, answers: Any) -> None:
    claims = Claims(folder, worker)
    barrier.wait()
    answers.put((worker, [claims.claim("test_latency", f"v{index}-b1") for index in range(200)]))


def test_each_case_has_one_owner_that_all_of_eight_processes_agree_on(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(8), context.Queue()
    names = [f"gpu{index}" for index in range(8)]
    processes = [
        context.Process(target=_claim_all, args=(tmp_path / "claims", name, barrier, answers)) for name in names
    ]
    for process in processes:
        process.start()
    owners_by_worker = dict(answers.get(timeout=ANSWERS_S) for _ in names)
    for process in processes:
        process.join()
    assert owners_by_worker.keys() == set(names)
    (owners,) = {tuple(answer) for answer in owners_by_worker.values()}
    assert set(owners) <= set(names)


def test_claim_without_a_name_stays_taken_and_has_no_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_module, "_UNNAMED_S", 0.1)
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
    assert Claims(tmp_path, "by-hand").workers == ("by-hand",), (
        "a worker that the run has not named shares with no other"
    )


def test_selection_is_read_from_any_worker(tmp_path: Path) -> None:
    assert read_selection(tmp_path) == Selection()
    selection = Selection(memory=("a-b1",), latency=("a-b1", "b-b1"))
    Claims(tmp_path, "gpu1").select(selection)
    assert read_selection(tmp_path) == selection
