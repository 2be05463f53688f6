"""fixtures/sessions/run_log.py: every outcome is on disk at once, and a resumed run is the run that was begun."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fixtures.errors import InputError
from fixtures.files import sha256_of
from fixtures.manifest import enter, read_manifest
from fixtures.parallel.run import ShardedRun, run_shards
from fixtures.results.run_folder import RunFolder
from fixtures.sessions.plan import Plan
from fixtures.sessions.run_log import RunLog
from fixtures.triton.access import ServerAccess
from fixtures.triton.server import Endpoint
from fixtures.weights.checkpoint import read_state_dict
from meta_tests.branches import publish_stand_in
from meta_tests.conftest import SMALL_SPEC
from meta_tests.file_records import with_tuning
from meta_tests.plans import memory_of, plan_of, result_of

pytestmark = pytest.mark.usefixtures("own_environment")

ENVIRONMENT: dict[str, Any] = {
    "device": "cpu",
    "gpu": None,
    "cpu": "a host's",
    "torch": "2",
    "timm": "1",
    "torch_threads": 1,
}
RAFT_FILE = "torch_cache/hub/checkpoints/raft_small_C_T_V2-01064c6d.pth"
# A name that promises no digest.
OWN_FILE = "torch_cache/hub/checkpoints/raft_small_own.pth"


@pytest.fixture
def plan(tmp_path: Path, bundle_root: Path) -> Plan:
    return plan_of(tmp_path, SMALL_SPEC, bundle_root)


def resumed(plan: Plan) -> Plan:
    return replace(plan, options=replace(plan.options, resume=True))


def summary_of(plan: Plan) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((plan.out / plan.run_id / "summary.json").read_text())
    return summary


def test_outcomes_are_on_disk_when_they_are_recorded_and_read_back_by_a_resumed_run(plan: Plan) -> None:
    first, second, *_ = plan.cases
    log = RunLog(plan, ENVIRONMENT)
    assert (summary_of(plan)["complete"], summary_of(plan)["cases"]) == (False, [])
    log.record_memory(memory_of(plan, first))
    assert [case["case_id"] for case in summary_of(plan)["memory_cases"]] == [first.id]
    log.record(result_of(plan, first, 1.0, 2.0, 3.0))
    assert [case["id"] for case in summary_of(plan)["cases"]] == [first.id]
    assert summary_of(plan)["memory_cases"] == []
    log.close()

    again = RunLog(resumed(plan), ENVIRONMENT)
    assert again.results == {first.id: result_of(plan, first, 1.0, 2.0, 3.0)}
    assert again.memory.keys() == {first.id}
    again.record(result_of(plan, second))
    again.finish(for_latency=plan.cases[:2], for_memory=plan.cases[:1])
    assert summary_of(plan)["complete"] is True
    again.finish(for_latency=plan.cases[:3], for_memory=())
    assert summary_of(plan)["complete"] is False, "a case has no outcome"
    again.close()


def test_second_writer_of_a_run_is_refused_until_the_first_has_closed_it(plan: Plan) -> None:
    log = RunLog(plan, ENVIRONMENT)
    log.record(result_of(plan, plan.cases[0]))
    rows = (log.folder.path / "results.jsonl").read_bytes()
    with pytest.raises(InputError, match="--run-id r: writer=process "):
        RunLog(resumed(plan), ENVIRONMENT)
    assert (log.folder.path / "results.jsonl").read_bytes() == rows
    log.close()
    RunLog(resumed(plan), ENVIRONMENT).close()


class _RefusedError(Exception):
    """The second writer of a run was refused, and the first need not go on."""


def test_run_that_several_workers_write_is_not_resumed_beside_them(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(plan)

    def work(*_: object) -> None:
        with pytest.raises(InputError, match=f"--run-id r: writer=process {os.getpid()} on "):
            RunLog(resumed(plan), ENVIRONMENT)
        raise _RefusedError

    monkeypatch.setattr("fixtures.parallel.run.WorkerPool.work", work)
    with pytest.raises(_RefusedError):
        run_shards([], ShardedRun(plan.out / "r", (), resume=True), print, 80)
    RunLog(resumed(plan), ENVIRONMENT).close()


def test_files_beside_a_run_have_one_writer(plan: Plan, tmp_path: Path) -> None:
    options = replace(plan.options, perf_csv=str(tmp_path / "p.csv"))
    one, two = replace(plan, options=options), replace(plan, options=options, run_id="two")
    log = RunLog(one, ENVIRONMENT, str(tmp_path / "b.json"))
    assert (tmp_path / "p.csv").read_text().startswith("Concurrency,")
    with pytest.raises(InputError, match=r"--perf-csv .*p\.csv: writer=process "):
        RunLog(two, ENVIRONMENT)
    with pytest.raises(InputError, match=r"--benchmark-json .*b\.json: writer=process "):
        RunLog(replace(two, options=plan.options), ENVIRONMENT, str(tmp_path / "b.json"))
    assert not (plan.out / "two").exists()
    log.close()
    RunLog(two, ENVIRONMENT, str(tmp_path / "b.json")).close()


# --- what a resumed run must have in common with its beginning ---


def begun(plan: Plan) -> dict[str, bytes]:
    """Begin a run with a case of RAFT; returns its files."""
    log = RunLog(plan, ENVIRONMENT)
    case = next(case for case in plan.cases if case.id == "raft_small_128-b1-fp32-torch")
    log.record_memory(memory_of(plan, case))
    log.record(result_of(plan, case))
    log.close()
    return {path.name: path.read_bytes() for path in log.folder.files()}


def refused(plan: Plan, environment: dict[str, Any] = ENVIRONMENT) -> str:
    """The message of a run that may not be resumed."""
    with pytest.raises(InputError) as refusal:
        RunLog(resumed(plan), environment)
    return str(refusal.value)


@pytest.mark.parametrize("fact", [{"torch_threads": 2}, {"device": "cuda"}, {"timm": "2"}])
def test_run_is_resumed_on_the_same_machine_only(plan: Plan, fact: dict[str, Any]) -> None:
    before = begun(plan)
    ((key, value),) = fact.items()
    message = refused(plan, {**ENVIRONMENT, **fact})
    assert message.startswith(f"--resume of r: {key}={value}, expected ")
    assert message.endswith(", as the run began. Start a new run.")
    assert {path.name: path.read_bytes() for path in RunFolder(plan.out / "r").files()} == before


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("height: 128", "height: 160", "variant=raft_small_128 changed"),
        ("cpu_budget_s: 0.2", "cpu_budget_s: 0.3", "protocol="),
        ("dtype: fp32", "dtype: fp16", "dtype=fp16"),
    ],
)
def test_run_is_resumed_with_the_same_spec_only(tmp_path: Path, plan: Plan, old: str, new: str, says: str) -> None:
    before = begun(plan)
    assert says in refused(plan_of(tmp_path, SMALL_SPEC.replace(old, new), plan.bundle.root))
    assert {path.name: path.read_bytes() for path in RunFolder(plan.out / "r").files()} == before


def test_run_is_resumed_with_the_same_frames_only(tmp_path: Path, bundle_root: Path) -> None:
    photo = tmp_path / "photos" / "noise.png"
    photo.parent.mkdir()
    Image.effect_noise((64, 64), 60).save(photo)
    begun(plan_of(tmp_path, SMALL_SPEC, bundle_root, frames=str(photo.parent)))
    Image.effect_noise((64, 64), 60).save(photo)
    again = plan_of(tmp_path, SMALL_SPEC, bundle_root, frames=str(photo.parent))
    assert "frames, sounds or prompts=others" in refused(again)


def _remove(path: Path) -> None:
    path.unlink()


def _replace_by_other_weights(path: Path) -> None:
    others = {key: value + 1 for key, value in read_state_dict(path).items()}
    path.unlink()
    torch.save(others, path)


@pytest.mark.parametrize(
    ("change", "says"),
    [(_remove, "file=missing"), (_replace_by_other_weights, f"weights={OWN_FILE} changed")],
    ids=["missing", "others"],
)
@pytest.mark.parametrize("only_memory", [False, True], ids=["latency", "memory"])
def test_run_is_resumed_with_the_same_weights_only(
    tmp_path: Path, bundle_root: Path, change: Callable[[Path], None], says: str, only_memory: bool
) -> None:
    root = Path(shutil.copytree(bundle_root, tmp_path / "root"))
    (root / RAFT_FILE).rename(root / OWN_FILE)
    plan = plan_of(tmp_path, SMALL_SPEC, root)
    begun(plan)
    if only_memory:
        (plan.out / "r" / "results.jsonl").unlink()
    change(root / OWN_FILE)
    assert says in refused(plan_of(tmp_path, SMALL_SPEC, root))


FILE = "midas/midas_small_64x96.onnx"


@pytest.fixture
def plan_of_file(tmp_path: Path, bundle_root: Path) -> Plan:
    """A plan of one published file, which is a stand-in with its weight beside it."""
    spec = SMALL_SPEC.replace("[torch]", "[onnxruntime]").replace("[1, 2]", "[1]")
    plan = plan_of(tmp_path, spec, bundle_root, variants="midas_small_64", onnx_dir=str(tmp_path / "onnx"))
    (case,) = plan.cases
    publish_stand_in(plan.onnx_dir, case.export, external=True)
    return plan


def _export_again(plan: Plan) -> None:
    publish_stand_in(plan.onnx_dir, plan.cases[0].export)


def _export_with_other_data(plan: Plan) -> None:
    record = read_manifest(plan.onnx_dir).files[FILE]
    (name,) = record.data
    beside = plan.onnx_dir / FILE
    beside.with_name(name).write_bytes(b"others")
    enter(plan.onnx_dir, FILE, record.model_copy(update={"data": {name: sha256_of(beside.with_name(name))}}))


def _tune(plan: Plan) -> None:
    record = read_manifest(plan.onnx_dir).files[FILE]
    enter(plan.onnx_dir, FILE, with_tuning(record, {"intra_op_thread_count": "1"}, "cpu"))


def _lose(plan: Plan) -> None:
    (plan.onnx_dir / FILE).unlink()


@pytest.mark.parametrize("recorded", ["latency", "memory"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_export_again, f"--resume of r: file={FILE} exported again, expected the one the run began with. Start a new"),
        (_export_with_other_data, f"--resume of r: file={FILE} exported again, expected the one the run began with."),
        (_lose, "file=missing, expected an exported file."),
    ],
)
def test_run_is_resumed_with_the_same_files_only(
    plan_of_file: Plan, change: Callable[[Plan], None], says: str, recorded: str
) -> None:
    plan = plan_of_file
    log = RunLog(plan, ENVIRONMENT)
    if recorded == "memory":
        log.record_memory(memory_of(plan, plan.cases[0]))
    else:
        log.record(result_of(plan, plan.cases[0]))
    log.close()
    RunLog(resumed(plan), ENVIRONMENT).close()
    change(plan)
    assert says in refused(plan)


def test_run_is_resumed_with_the_same_options_of_a_file_only(plan_of_file: Plan) -> None:
    plan = plan_of_file
    log = RunLog(plan, ENVIRONMENT)
    log.record(result_of(plan, plan.cases[0]))
    log.close()
    _tune(plan)
    says = f"--resume of r: options of {FILE}=tuned again, expected those the run began with. Start a new run."
    assert refused(plan) == says


def test_run_is_resumed_with_the_same_server_only(tmp_path: Path, bundle_root: Path) -> None:
    named = ServerAccess(endpoint=Endpoint("a:8000", "a:8001"))
    plan = replace(plan_of(tmp_path, SMALL_SPEC.replace("[torch]", "[torch, triton]"), bundle_root), server=named)
    begun(plan)
    without = replace(plan, cases=tuple(case for case in plan.cases if case.runtime == "torch"), server=ServerAccess())
    RunLog(resumed(without), ENVIRONMENT).close()
    says = "--resume of r: server=started by the run, expected a:8000, as the run began. Start a new run."
    assert refused(replace(plan, server=ServerAccess())) == says
    RunLog(resumed(plan), ENVIRONMENT).close()


def test_run_whose_rows_do_not_say_their_file_is_resumed(plan_of_file: Plan) -> None:
    plan = plan_of_file
    log = RunLog(plan, ENVIRONMENT)
    result = result_of(plan, plan.cases[0])
    log.record(replace(result, facts=result.facts.model_copy(update={"file": None})))
    log.close()
    _export_again(plan)
    log = RunLog(resumed(plan), ENVIRONMENT)
    log.close()
    assert list(log.results) == [plan.cases[0].id]


def test_resumed_run_keeps_the_variants_and_the_start_of_its_beginning(tmp_path: Path, plan: Plan) -> None:
    begun(plan)
    path = plan.out / "r" / "summary.json"
    path.write_text(path.read_text().replace(summary_of(plan)["run"]["started_at"], "2026-01-01T00:00:00+00:00"))
    began_with = summary_of(plan)["run"]
    without_midas = "\n".join(line for line in SMALL_SPEC.splitlines() if "midas" not in line)
    RunLog(resumed(plan_of(tmp_path, without_midas, plan.bundle.root)), ENVIRONMENT).close()
    again = summary_of(plan)["run"]
    assert again["variants"] == began_with["variants"]
    assert again["variants"].keys() == {"midas_small_64", "raft_small_128"}
    assert again["started_at"] == "2026-01-01T00:00:00+00:00"


def test_run_without_a_legible_summary_is_not_resumed(plan: Plan) -> None:
    begun(plan)
    (plan.out / "r" / "summary.json").write_text("{")
    assert "summary.json: content=unreadable, expected the summary of a run. Start a new run." in refused(plan)


def test_names_of_frames_in_any_bytes_are_recorded(tmp_path: Path, bundle_root: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.effect_noise((64, 64), 60).save(bytes(folder / "noise") + b"\xff.png")
    plan = plan_of(tmp_path, SMALL_SPEC, bundle_root, frames=str(folder))
    RunLog(plan, ENVIRONMENT).close()
    assert summary_of(plan)["run"]["content"] == ["noise\ufffd.png", "prompts.txt"]


# --- one of several workers ---


def test_worker_adopts_what_the_shared_run_holds(tmp_path: Path, plan: Plan) -> None:
    begun(plan)
    case_id = "raft_small_128-b1-fp32-torch"
    options = replace(plan.options, claims=str(plan.out / "r" / "claims"), out=str(plan.out / "r" / "shards"))
    worker = RunLog(replace(plan, options=options, run_id="gpu0"), ENVIRONMENT)
    assert worker.results == {}
    worker.adopt(case_id, None)
    assert list(worker.results) == list(worker.memory) == [case_id]
    assert not (worker.folder.path / "results.jsonl").exists(), "they stay where they are"
    worker.close()
