"""A fleet on a real Ray cluster of one machine: a lost worker's shard is measured again, and each case once."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from fixtures.errors import InputError
from fixtures.parallel.fleet import FleetRun, run_fleet
from fixtures.parallel.fleet_task import FleetTask, ShardFiles
from fixtures.parallel.ray_cluster import Cluster, Lost
from fixtures.parallel.run import ShardedRun
from fixtures.records import CaseFacts
from fixtures.results.reading import read_run
from fixtures.results.rows import CaseResult, Provenance
from fixtures.results.run_folder import RunFolder
from fixtures.results.summary import summarize
from fixtures.spec import load_spec
from meta_tests.conftest import SMALL_SPEC

SELECTED = ("-k", "test_latency and b1", "-p", "no:cacheprovider")


def a_fleet(folder: Path, spec: str, root: Path | None = None, **changed: Any) -> FleetRun:
    path = folder / "small.yaml"
    path.write_text(spec)
    run = ShardedRun(folder / "out" / "f", SELECTED, benchmark_json=folder / "b.json")
    return FleetRun(replace(run, **changed), path, load_spec(path), models_root=str(root) if root else None)


# -- without Ray: what is told apart, asked for, and counted


class FakeCluster(Cluster):
    """A cluster of these GPUs that answers at once, as `answers` say: variant → one answer an attempt."""

    def __init__(self, accelerators: list[str], answers: dict[str, list[Any]] | None = None) -> None:
        super().__init__(None)
        self._known = accelerators
        self._answers = answers or {}
        self._under_way: list[FleetTask] = []
        self.asked: list[tuple[str, str | None, bool]] = []

    def _nodes(self) -> list[Any]:
        gpus: list[Any] = [{"CPU": 32.0, "GPU": 8.0, f"accelerator_type:{name}": 1.0} for name in self._known]
        return [*gpus, {"CPU": 16.0}]

    def submit(self, task: FleetTask, accelerator: str | None, on_gpu: bool) -> None:
        self.asked.append((task.variant, accelerator, on_gpu))
        self.submit_again(task)

    def submit_again(self, task: FleetTask) -> None:
        self._under_way.append(task)

    def arrivals(self) -> Iterator[tuple[FleetTask, ShardFiles | Lost | None]]:
        while self._under_way:
            task = self._under_way.pop(0)
            yield task, None
            yield task, self._answers[task.variant].pop(0)


def files_of(folder: Path, variant: str, gpu: str) -> ShardFiles:
    """What a shard of one case brings back from a GPU."""
    environment = {"device": "cuda", "gpu": gpu}
    run = {"dtype": "fp32", "protocol": {}, "content_digests": [], "variants": {"midas_small_64": {}}}
    shard = RunFolder.create(folder / "elsewhere", f"{variant}-{gpu}".replace(" ", ""))
    facts = CaseFacts(id=f"{variant}-b1", variant=variant, batch=1, runtime="torch", device="cuda", status="ok")
    result = CaseResult(facts, (1.0, 2.0))
    shard.append(result, Provenance("shard", "o", "s", dict(environment), "1", None, None))
    shard.write_summary(summarize([result], run_id="shard", complete=True, environment=environment, run=run))
    return ShardFiles(variant, "host", 0, "", {path.name: path.read_bytes() for path in shard.files()})


@pytest.mark.parametrize(
    ("product", "accelerator"),
    [
        ("H100", "H100"),
        ("h100", "H100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("A100-SXM4-40GB", "A100"),
        ("RTX PRO 6000", "RTX-PRO-6000"),
        ("RTX 5090", "GeForce-RTX-5090"),
        ("H200", None),
        ("A10", None),
    ],
)
def test_a_product_is_one_of_rays_types(product: str, accelerator: str | None) -> None:
    cluster = FakeCluster(["H100", "A100", "RTX-PRO-6000", "GeForce-RTX-5090", "L40S"])
    assert cluster.accelerator_for(product) == accelerator


def test_a_gpu_that_the_cluster_does_not_have_is_refused_before_anything_runs(tmp_path: Path) -> None:
    cluster = FakeCluster(["A100", "H100"])
    fleet = a_fleet(tmp_path, SMALL_SPEC.replace("width: 128}", "width: 128, gpu: H200}"))
    with pytest.raises(InputError) as error:
        run_fleet(fleet, cluster, print, 120)
    assert f"{fleet.file}:9: gpu='H200', expected a GPU that the fleet measures on: A100, H100." in str(error.value)
    assert not cluster.asked
    assert not fleet.run.folder.exists()
    with pytest.raises(InputError, match="measures on: none"):
        run_fleet(replace(fleet, on_cpu=True), cluster, print, 120)


def test_each_variant_goes_to_its_gpu_and_each_kind_of_gpu_has_its_table(tmp_path: Path) -> None:
    spec = SMALL_SPEC.replace("width: 96}", "width: 96, gpu: H100}").replace("width: 128}", "width: 128, gpu: A100}")
    one, two = (
        files_of(tmp_path, name, gpu)
        for name, gpu in (("midas_small_64", "NVIDIA H100"), ("raft_small_128", "NVIDIA A100"))
    )
    cluster = FakeCluster(["A100", "H100"], {one.variant: [one], two.variant: [two]})
    fleet = a_fleet(tmp_path, spec)
    assert run_fleet(fleet, cluster, print, 120) == 0
    assert sorted(cluster.asked) == [("midas_small_64", "H100", True), ("raft_small_128", "A100", True)]
    tables = {path.parent.name: read_run(path.parent) for path in fleet.run.folder.glob("*/summary.json")}
    assert {name: list(run.table) for name, run in tables.items()} == {
        "nvidia-h100": ["midas_small_64"],
        "nvidia-a100": ["raft_small_128"],
    }
    assert all(run.complete and run.run_id == name for name, run in tables.items())
    assert not (fleet.run.folder / "summary.json").exists()


def test_what_is_lost_is_sent_again_and_what_is_refused_says_why(tmp_path: Path) -> None:
    said: list[str] = []
    lost, own = Lost("midas_small_64", "WorkerCrashedError: gone", retry=True), Lost("x", "OSError: full", retry=False)
    whole = files_of(tmp_path, "midas_small_64", "NVIDIA H100")
    refused = ShardFiles("raft_small_128", "host", 2, "hello\nERROR: --dtype: value='fp8'\n", {})
    cluster = FakeCluster([], {"midas_small_64": [lost, lost, whole], "raft_small_128": [refused]})
    fleet = a_fleet(tmp_path, SMALL_SPEC)
    assert run_fleet(fleet, cluster, said.append, 120) == 2
    assert said.count("midas_small_64: lost its worker (WorkerCrashedError: gone); again") == 2
    assert "raft_small_128: was refused on host\n  ERROR: --dtype: value='fp8'" in said
    summary = read_run(fleet.run.folder)
    assert (summary.complete, list(summary.table)) == (False, ["midas_small_64"])
    assert summary.notes == ("missing: shard raft_small_128: nothing was written, exit code 2",)

    cluster = FakeCluster([], {"raft_small_128": [lost, lost, lost]})
    resumed = a_fleet(tmp_path, SMALL_SPEC, resume=True)
    assert run_fleet(resumed, cluster, said.append, 120) == 1
    assert [name for name, *_ in cluster.asked] == ["raft_small_128"], "what is whole is not measured again"
    cluster = FakeCluster([], {"raft_small_128": [own]})
    assert run_fleet(resumed, cluster, said.append, 120) == 1
    assert said.count("raft_small_128: failed (OSError: full)") == 1
    assert list(read_run(fleet.run.folder).table) == ["midas_small_64"]


def test_interrupted_a_fleet_keeps_what_has_arrived(tmp_path: Path) -> None:
    class Interrupting(FakeCluster):
        def arrivals(self) -> Iterator[tuple[FleetTask, ShardFiles | Lost | None]]:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().arrivals()

    said: list[str] = []
    one, two = (files_of(tmp_path, name, "H100") for name in ("midas_small_64", "raft_small_128"))
    cluster = Interrupting([], {one.variant: [one], two.variant: [two]})
    fleet = a_fleet(tmp_path, SMALL_SPEC)
    assert run_fleet(fleet, cluster, said.append, 120) == 143
    assert said[-1] == "interrupted by SIGTERM; --resume goes on"
    later = FakeCluster([], {one.variant: [one], two.variant: [two]})
    assert run_fleet(a_fleet(tmp_path, SMALL_SPEC, resume=True), later, said.append, 120) == 0
    assert read_run(fleet.run.folder).complete is True


def test_a_task_takes_a_gpu_and_its_part_of_the_cpus_or_a_whole_machine() -> None:
    cluster = FakeCluster(["H100"])
    assert cluster.has_gpus
    assert cluster._cpus(on_gpu=True) == 4
    assert cluster._cpus(on_gpu=False) == 32


def test_without_ray_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"ray=missing, expected the optional extra `fleet`") as error, Cluster(None):
        pass
    assert "pip install -e '.[fleet]'" in str(error.value)


# -- with Ray


def test_a_shard_whose_worker_was_killed_is_measured_elsewhere_and_each_case_once(
    tmp_path: Path, bundle_root: Path
) -> None:
    fleet = a_fleet(tmp_path, SMALL_SPEC, bundle_root)
    said: list[str] = []
    killed, ended = threading.Event(), threading.Event()
    killer = threading.Thread(target=_kill_the_worker_of, args=("midas_small_64", killed, ended), daemon=True)
    killer.start()
    try:
        with Cluster(None, cpus=1) as cluster:
            assert run_fleet(fleet, cluster, said.append, 120) == 0, said
    finally:
        ended.set()
    assert killed.is_set()
    assert [line for line in said if line.startswith("midas_small_64: lost its worker")]
    summary = read_run(fleet.run.folder)
    assert (summary.complete, summary.run_id, summary.notes) == (True, "f", ())
    ids = ["midas_small_64-b1-fp32-torch", "raft_small_128-b1-fp32-torch"]
    assert [case.id for case in summary.cases] == ids
    rows = [json.loads(line) for line in (fleet.run.folder / "results.jsonl").read_text().splitlines()]
    assert len(rows) == sum(case.rounds for case in summary.cases)
    assert sorted(path.name for path in fleet.run.shards.iterdir()) == ["midas_small_64", "raft_small_128"]
    document = json.loads((tmp_path / "b.json").read_text())
    assert [entry["param"] for entry in document["benchmarks"]] == ids


def _kill_the_worker_of(variant: str, killed: threading.Event, ended: threading.Event) -> None:
    """End the Ray process that measures a variant, once; its pytest has to end with it."""
    while not ended.is_set():
        for child in psutil.Process().children(recursive=True):
            try:
                if {"--variants", variant} <= set(child.cmdline()):
                    worker = child.parent()
                    assert worker is not None
                    worker.kill()
                    child.wait(timeout=20)  # by itself it would take longer
                    killed.set()
                    return
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        time.sleep(0.05)
