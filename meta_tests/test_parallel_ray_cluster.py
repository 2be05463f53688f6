"""fixtures.parallel.ray_cluster: GPU types, resources of a task, and tasks lost on a real cluster of this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from fixtures.errors import InputError
from fixtures.parallel.fleet import run_fleet
from fixtures.parallel.ray_cluster import Cluster
from fixtures.results.reading import read_run
from meta_tests.conftest import SMALL_SPEC
from meta_tests.shards import FakeCluster, a_fleet, stub_shard


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
def test_product_is_matched_with_a_type_of_ray(product: str, accelerator: str | None) -> None:
    cluster = FakeCluster(["H100", "A100", "RTX-PRO-6000", "GeForce-RTX-5090", "L40S"])
    assert cluster.accelerator_for(product) == accelerator


def test_task_takes_a_gpu_with_its_part_of_the_cpus_or_a_whole_machine() -> None:
    cluster = FakeCluster(["H100"])
    assert cluster.has_gpus
    assert cluster._cpus(on_gpu=True) == 4
    assert cluster._cpus(on_gpu=False) == 32


def test_without_ray_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"ray=missing, expected the optional extra `fleet`") as error, Cluster(None):
        pass
    assert "pip install -e '.[fleet]'" in str(error.value)


def test_task_of_a_killed_process_is_sent_again_and_a_task_that_raises_is_not(tmp_path: Path) -> None:
    """On a real cluster of this machine; one test, because a cluster takes 6 s to start."""
    (tmp_path / "midas_small_64.killed").touch()
    (tmp_path / "broken.fails").touch()
    broken = "  - {name: broken, family: midas, model: MiDaS_small, height: 64, width: 64}\n"
    fleet, lines = a_fleet(tmp_path, SMALL_SPEC + broken, tmp_path), list[str]()
    with Cluster(None, cpus=1, measure=stub_shard) as cluster:
        assert run_fleet(fleet, cluster, lines.append, 120) == 1, lines
    assert [line.split(" (")[0] for line in lines if "lost" in line] == ["midas_small_64: lost its worker"]
    (failed,) = [line for line in lines if line.startswith("broken: ")]
    assert failed.startswith("broken: failed (")
    assert "disk full" in failed
    summary = read_run(fleet.run.folder)
    assert (summary.complete, summary.run_id, len(summary.notes)) == (False, "f", 1)
    assert summary.notes[0].startswith("missing: shard broken: ")
    ids = ["midas_small_64-b1", "raft_small_128-b1"]
    assert [case.id for case in summary.cases] == ids
    rows = [json.loads(line) for line in (fleet.run.folder / "results.jsonl").read_text().splitlines()]
    assert len(rows) == sum(case.rounds for case in summary.cases)
    assert sorted(path.name for path in fleet.run.shards.iterdir()) == ["midas_small_64", "raft_small_128"]
    document = json.loads((tmp_path / "b.json").read_text())
    assert [entry["param"] for entry in document["benchmarks"]] == ids
