"""A fleet without machines: a cluster that answers at once, and shards that were never measured."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fixtures.parallel.fleet import FleetRun
from fixtures.parallel.fleet_task import BENCHMARK, FleetTask, ShardFiles
from fixtures.parallel.ray_cluster import Cluster, Lost
from fixtures.parallel.run import ShardedRun
from fixtures.records import CaseFacts
from fixtures.results.rows import CaseResult, Provenance
from fixtures.results.run_folder import RunFolder
from fixtures.results.summary import summarize
from fixtures.spec import load_spec

SELECTED = ("-k", "test_latency and b1", "-p", "no:cacheprovider")


def a_fleet(folder: Path, spec: str, root: Path | None = None, **changed: Any) -> FleetRun:
    """A run of a spec by a fleet, in `folder`; `changed` are fields of its `ShardedRun`."""
    path = folder / "small.yaml"
    path.write_text(spec)
    run = ShardedRun(folder / "out" / "f", SELECTED, benchmark_json=folder / "b.json")
    return FleetRun(replace(run, **changed), path, load_spec(path), models_root=str(root) if root else None)


class FakeCluster(Cluster):
    """A cluster of these GPUs that answers at once.

    Args:
        answers: variant → the answers to its attempts, in order.

    Attributes:
        asked: variant, accelerator and whether on a GPU, of every task.
    """

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
    """The files of a shard of one case, measured on a GPU of this name; `folder` is scratch."""
    environment = {"device": "cuda", "gpu": gpu}
    run = {"dtype": "fp32", "protocol": {}, "content_digests": [], "variants": {"midas_small_64": {}}}
    shard = RunFolder.create(folder / "elsewhere", f"{variant}-{gpu}".replace(" ", ""))
    facts = CaseFacts(id=f"{variant}-b1", variant=variant, batch=1, runtime="torch", device="cuda", status="ok")
    result = CaseResult(facts, (1.0, 2.0))
    shard.append(result, Provenance("shard", "o", "s", dict(environment), "1", None, None))
    shard.write_summary(summarize([result], run_id="shard", complete=True, environment=environment, run=run))
    return ShardFiles(variant, "host", 0, "", {path.name: path.read_bytes() for path in shard.files()})


def stub_shard(task: FleetTask) -> ShardFiles:
    """In the place of `measure_shard` in a Ray task; the folder `models_root` says what becomes of it.

    `VARIANT.killed`: the process ends, once. `VARIANT.fails`: the task raises.
    """
    assert task.models_root is not None
    folder = Path(task.models_root)
    if (killed := folder / f"{task.variant}.killed").exists():
        killed.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if (folder / f"{task.variant}.fails").exists():
        raise OSError("disk full")
    shard = files_of(folder, task.variant, "a GPU")
    benchmark = f'{{"benchmarks": [{{"param": "{task.variant}-b1"}}]}}'
    return replace(shard, files={**shard.files, BENCHMARK: benchmark.encode()})
