"""fixtures.parallel.fleet: lost shards are sent again, each kind of GPU has its table, and what arrived is kept."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fixtures.errors import InputError
from fixtures.parallel.fleet import run_fleet
from fixtures.parallel.fleet_task import FleetTask, ShardFiles
from fixtures.parallel.ray_cluster import Lost
from fixtures.results.reading import read_run
from meta_tests.conftest import SMALL_SPEC
from meta_tests.shards import FakeCluster, a_fleet, files_of


def test_gpu_that_the_cluster_lacks_is_refused_before_any_task(tmp_path: Path) -> None:
    cluster = FakeCluster(["A100", "H100"])
    fleet = a_fleet(tmp_path, SMALL_SPEC.replace("width: 128}", "width: 128, gpu: H200}"))
    with pytest.raises(InputError) as error:
        run_fleet(fleet, cluster, print, 120)
    assert f"{fleet.file}:9: gpu='H200', expected a GPU that the fleet measures on: A100, H100." in str(error.value)
    assert not cluster.asked
    assert not fleet.run.folder.exists()
    with pytest.raises(InputError, match="measures on: none"):
        run_fleet(replace(fleet, on_cpu=True), cluster, print, 120)


def test_variants_go_to_their_gpus_and_each_kind_of_gpu_has_its_table(tmp_path: Path) -> None:
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


def test_resumed_fleet_with_a_second_kind_of_gpu_replaces_the_single_table(tmp_path: Path) -> None:
    one, two = (
        files_of(tmp_path, name, gpu)
        for name, gpu in (("midas_small_64", "NVIDIA H100"), ("raft_small_128", "NVIDIA A100"))
    )
    failed = Lost(two.variant, "OSError: full", retry=False)
    fleet = a_fleet(tmp_path, SMALL_SPEC)
    assert run_fleet(fleet, FakeCluster([], {one.variant: [one], two.variant: [failed]}), print, 120) == 1
    assert (fleet.run.folder / "summary.json").exists()
    assert run_fleet(a_fleet(tmp_path, SMALL_SPEC, resume=True), FakeCluster([], {two.variant: [two]}), print, 120) == 0
    assert {path.parent.name for path in fleet.run.folder.glob("*/summary.json")} == {"nvidia-h100", "nvidia-a100"}
    assert not (fleet.run.folder / "summary.json").exists()


def test_lost_shards_are_sent_again_and_refused_ones_are_reported_with_the_message(tmp_path: Path) -> None:
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
    assert [name for name, *_ in cluster.asked] == ["raft_small_128"], "a complete shard is not measured again"
    cluster = FakeCluster([], {"raft_small_128": [own]})
    assert run_fleet(resumed, cluster, said.append, 120) == 1
    assert said.count("raft_small_128: failed (OSError: full)") == 1
    assert list(read_run(fleet.run.folder).table) == ["midas_small_64"]


def test_interrupted_fleet_keeps_arrived_shards_and_is_resumed(tmp_path: Path) -> None:
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
