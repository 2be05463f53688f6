"""Several workers make one run: nothing twice, nothing lost, one kind of device, whoever is killed and when."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pynvml
import pytest

from fixtures.cases import cases_of
from fixtures.errors import InputError
from fixtures.nvml import is_product
from fixtures.parallel.arguments import fleet_run, sharded_run
from fixtures.parallel.claims import Claims, Selection, read_selection
from fixtures.parallel.cpus import shares
from fixtures.parallel.merge import merge, read_part
from fixtures.parallel.run import ShardedRun
from fixtures.parallel.worker_pool import WorkerPool
from fixtures.parallel.workers import Worker, gpu_workers
from fixtures.records import CaseFacts, Memory, MemoryCase, Plain
from fixtures.results.reading import read_run, summarize_file
from fixtures.results.rows import CaseResult, Provenance
from fixtures.results.run_folder import RunFolder
from fixtures.results.summary import summarize
from fixtures.spec import load_spec
from meta_tests.conftest import HANGS_S, ROOT, SMALL_SPEC, Suite, environment, wait_until
from tools import run_shards as tool

ENVIRONMENT: dict[str, Plain] = {"device": "cuda", "gpu": "H100", "torch": "2.15.0", "torch_threads": 4, "pytest": "9"}
RUN: dict[str, Any] = {
    "dtype": "fp16",
    "protocol": {},
    "content_digests": [],
    "variants": {"a": {}, "b": {}, "c": {}},
}
MEMORY = Memory(source="fresh_process", rss_mb={"before": 1.0, "steady": 3.0})
Shard = Callable[..., Path]


# -- CPUs and GPUs


def _topology(folder: Path, cores: Sequence[Sequence[int]]) -> Path:
    for core in cores:
        for cpu in core:
            path = folder / f"cpu{cpu}" / "topology"
            path.mkdir(parents=True)
            (path / "thread_siblings_list").write_text(",".join(map(str, core)) + "\n")
    return folder


def test_workers_near_the_same_cpus_get_whole_cores_each(tmp_path: Path) -> None:
    topology = _topology(tmp_path, [(core, core + 8) for core in range(8)])
    left, right = frozenset({0, 1, 2, 3, 8, 9, 10, 11}), frozenset({4, 5, 6, 7, 12, 13, 14, 15})
    parted = shares({"0": left, "1": left, "2": right}, frozenset(range(16)), topology)
    assert parted == {"0": {0, 1, 8, 9}, "1": {2, 3, 10, 11}, "2": right}


@pytest.mark.parametrize(
    ("near", "usable", "expected"),
    [
        ([{0, 1}, {2, 3}], {0, 1, 2, 3}, [{0, 1}, {2, 3}]),
        ([set(), set()], {0, 1, 2, 3, 4}, [{0, 1}, {2, 3}]),
        ([{64, 65}, {66}], {0, 1}, [{0}, {1}]),
        ([{0, 1, 2}, {2, 3}], {0, 1, 2, 3}, [{0, 1}, {2, 3}]),
        ([{0}, {0}], {0, 1}, [None, None]),
        ([{0, 1}], {0, 1}, [{0, 1}]),
    ],
    ids=["apart", "unknown", "of the host", "overlapping", "too few", "one"],
)
def test_cpus_of_workers(
    tmp_path: Path, near: list[set[int]], usable: set[int], expected: list[set[int] | None]
) -> None:
    named = {str(index): frozenset(cpus) for index, cpus in enumerate(near)}
    parted = shares(named, frozenset(usable), tmp_path)
    assert list(parted.values()) == expected
    parts = [part for part in parted.values() if part]
    assert sum(map(len, parts)) == len(frozenset().union(*parts)), "no CPU in two parts"


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two H100 and an A100; a handle is the GPU's index."""
    names = ["NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"]
    memory = type("Memory", (), {"total": 80 * 1024**3})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: len(names))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda handle: names[handle])
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", lambda handle: f"GPU-{handle}{handle}-aa")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda handle: memory)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCpuAffinity", lambda handle, size: [0b11, *([0] * (size - 1))])
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})


@pytest.mark.usefixtures("three_gpus")
def test_a_worker_sees_its_gpu_alone() -> None:
    workers = gpu_workers("1,0")
    assert [(worker.name, worker.environment["CUDA_VISIBLE_DEVICES"]) for worker in workers] == [
        ("gpu1", "1"),
        ("gpu0", "0"),
    ]
    assert {worker.environment["CUDA_DEVICE_ORDER"] for worker in workers} == {"PCI_BUS_ID"}
    assert {frozenset(worker.cpus or ()) for worker in workers} in ({frozenset({0}), frozenset({1})}, {frozenset()})


@pytest.mark.usefixtures("three_gpus")
@pytest.mark.parametrize(
    ("text", "visible", "says"),
    [
        ("0,x", None, "gpu='x', expected numbers such as 0,1"),
        ("0,", None, "gpu='', expected numbers"),
        ("²", None, "expected numbers"),
        ("1,1", None, "gpu 1=named twice"),
        ("0,3", None, "gpu 3=missing, expected 0 to 2"),
        ("1,2", None, "gpu 1 is NVIDIA H100 80GB HBM3, gpu 2 is NVIDIA A100-SXM4-80GB, expected GPUs of one product"),
        ("0,1", "1,2", "gpu 0=withheld, expected one of CUDA_VISIBLE_DEVICES=1,2"),
        ("0,1", "GPU-11", "gpu 0=withheld"),
    ],
)
def test_gpus_that_cannot_be_measured_on_are_refused(
    monkeypatch: pytest.MonkeyPatch, text: str, visible: str | None, says: str
) -> None:
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(InputError, match=f"--gpus {text}: ") as error:
        gpu_workers(text)
    assert says in str(error.value)


@pytest.mark.usefixtures("three_gpus")
def test_a_gpu_may_be_made_visible_by_the_beginning_of_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-11,0")
    assert [worker.name for worker in gpu_workers("0,1")] == ["gpu0", "gpu1"]


def test_without_nvml_the_tool_ends_with_one_message_and_in_a_second() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "tools.run_shards", "--gpus", "7"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S, check=False)
    messages = [line for line in ended.stderr.splitlines() if not line.startswith("import time:")]
    imported = {line.split("|")[-1].strip() for line in ended.stderr.splitlines() if line.startswith("import time:")}
    assert ended.returncode == 2
    assert len(messages) == 1
    assert messages[0].startswith("ERROR: --gpus 7: ")
    assert not imported & {"torch", "pytest", "ray"}


@pytest.mark.parametrize(
    ("wanted", "name", "expected"),
    [
        ("H100", "NVIDIA H100 80GB HBM3", True),
        ("h100 80gb", "NVIDIA H100 80GB HBM3", True),
        ("A100-SXM4", "NVIDIA A100-SXM4-40GB", True),
        ("A10", "NVIDIA A100-SXM4-40GB", False),
        ("H200", "NVIDIA GH200 480GB", False),
        ("L4", "NVIDIA L40S", False),
        ("RTX 4090", "NVIDIA GeForce RTX 4090", True),
    ],
)
def test_a_product_is_whole_words_of_a_name(wanted: str, name: str, expected: bool) -> None:
    assert is_product(wanted, name) is expected


# -- what the parent takes out of pytest's arguments


def _run_of(*arguments: str, before: Sequence[str] = ()) -> ShardedRun:
    given = tool.parser().parse_args(["--gpus", "0", *before])
    return sharded_run(given, arguments)


def test_options_of_the_run_may_stand_on_either_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = ("--run-id", "x", "--benchmark-json", "b.json")
    run = _run_of("bench_tests", "-k", "a and b", "--out", "o", "--resume", "--perf-csv=p.csv", before=before)
    assert (run.folder, run.resume) == (tmp_path / "o" / "x", True)
    assert (run.benchmark_json, run.perf_csv) == (tmp_path / "b.json", tmp_path / "p.csv")
    assert run.arguments == ("bench_tests", "-k", "a and b", "--device", "cuda")
    later = _run_of("--run-id=y", "--benchmark-json", "c.json", before=before)
    assert (later.folder.name, later.benchmark_json) == ("y", tmp_path / "c.json")
    assert later.arguments == ("bench_tests", "--device", "cuda")
    command = run.command(Worker("gpu1", "H100"))
    assert command[-2:] == ["--perf-csv", str(tmp_path / "o/x/shards/gpu1.csv")]
    assert ["--out", str(tmp_path / "o/x/shards"), "--run-id", "gpu1"] == command[8:12]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--claims", "c"), "--claims: "),
        (("--collect-only",), "Run pytest itself."),
        (("--benchmark-save=x",), "Use --benchmark-json."),
        (("--device", "cpu"), "--device cpu: GPUs=named, expected cuda"),
        (("--run-id", "../x"), "expected a plain folder name"),
        (("--run-id",), "expected options with their values"),
        (("--benchmark-json", "/proc/nowhere/b.json"), "--benchmark-json /proc/nowhere/b.json: "),
    ],
)
def test_options_that_several_workers_cannot_share_are_refused(arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(InputError) as error:
        _run_of(*arguments)
    assert says in str(error.value)


def test_make_bench_measures_on_the_gpus_that_are_named() -> None:
    said = {}
    for gpus in ("GPUS=", "GPUS=0,1"):
        command = ["make", "--no-print-directory", "--dry-run", "bench", gpus, "ARGS=-k midas", "DP_MODELS_ROOT=root"]
        lines = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
        said[gpus] = lines[-1]
    arguments = ' bench_tests --models-root "root" --benchmark-json=out/benchmark.json -k midas'
    assert said["GPUS="].endswith(f"python -m pytest{arguments}")
    assert said["GPUS=0,1"].endswith(f'python -m tools.run_shards --gpus "0,1" --{arguments}')


def test_a_fleet_takes_its_own_options_before_pytests() -> None:
    given = tool.parser().parse_args(["--gpus", "0"])
    assert fleet_run(given, ["--device", "cpu", "-x"])[1] is True
    with pytest.raises(InputError, match="--variants: place=after --"):
        fleet_run(given, ["--variants=a"])


# -- processes


def _script(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_lines_come_with_names_and_bad_input_is_said_at_the_end() -> None:
    said: list[str] = []
    crew = WorkerPool(said.append)
    loud = "import sys; print('hello'); sys.stderr.write('ERROR: bad\\n'); sys.exit(2)"
    shown = "import os; print(os.environ['GPU'], sorted(os.sched_getaffinity(0)))"
    cpu = min(os.sched_getaffinity(0))
    crew.work(
        [
            (Worker("gpu0", ""), _script(loud)),
            (Worker("gpu1", "", {"GPU": "one"}, frozenset({cpu})), _script(shown)),
            (Worker("gpu2", ""), _script("import os; os.kill(os.getpid(), 9)")),
            (Worker("gpu3", ""), _script("raise SystemExit(2)")),
        ]
    )
    assert sorted(said) == ["[gpu0] hello", f"[gpu1] one [{cpu}]"]
    assert [child.errors for child in crew.children] == [["ERROR: bad"], [], [], []]
    assert [child.exit_code for child in crew.children] == [2, 0, 1, 1]
    assert [child.failure for child in crew.children] == [None, None, "was ended by SIGKILL", "was interrupted"]


IN_ORDER = "import time\ntry:\n print('up', flush=True); time.sleep(60)\nexcept KeyboardInterrupt:\n print('down')"
STUBBORN = "import signal, time; signal.signal(signal.SIGINT, lambda *_: None); print('up', flush=True); time.sleep(60)"


@pytest.mark.parametrize(("script", "interrupts"), [(IN_ORDER, 1), (STUBBORN, 2)], ids=["in order", "stubborn"])
def test_an_interrupt_is_passed_on_and_a_second_one_ends_it(script: str, interrupts: int) -> None:
    said: list[str] = []

    def interrupt(line: str) -> None:
        said.append(line)
        if line.endswith("up") and sum(text.endswith("up") for text in said) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            if interrupts == 2:  # a second one that comes before the first was handled is none
                wait_until(lambda: crew.interrupted_by is not None)
                os.kill(os.getpid(), signal.SIGTERM)

    crew = WorkerPool(interrupt)
    started = time.monotonic()
    with crew.passing_on_interrupts():
        crew.work([(Worker(name, ""), _script(script)) for name in ("a", "b")])
    assert time.monotonic() - started < 30
    assert crew.interrupted_by == signal.SIGTERM
    assert sum(line.endswith("down") for line in said) == (2 if interrupts == 1 else 0)


def test_workers_end_with_a_parent_that_is_killed() -> None:
    code = (
        "import sys\nfrom fixtures.parallel.worker_pool import WorkerPool\n"
        "from fixtures.parallel.workers import Worker\n"
        "command = [sys.executable, '-c', 'import os, time; print(os.getpid(), flush=True); time.sleep(60)']\n"
        "pool = WorkerPool(lambda line: print(line, flush=True))\n"
        "pool.work([(Worker('a', ''), command), (Worker('b', ''), command)])"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(parent.stdout.readline().split()[1]) for _ in range(2)]
        parent.kill()
    wait_until(lambda: not _running(pids), seconds=20)  # by themselves they would take longer


def _running(pids: Sequence[int]) -> list[int]:
    return [pid for pid in pids if _is_running(pid)]


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# -- merge


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    """Writes the folder of a shard: `name`, its cases (`variant-bN` → rounds), and what its summary says."""

    def write(name: str, cases: dict[str, tuple[float, ...]], **changed: Any) -> Path:
        memory = changed.pop("memory", cases)
        found = {**ENVIRONMENT, **changed.pop("environment", {})}
        run = {**RUN, **changed.pop("run", {})}
        folder = RunFolder.create(tmp_path / "shards", name)
        provenance = Provenance(name, "owner", "stage", found, "1", "c0ffee", False)
        results = [CaseResult(_facts(case_id), rounds) for case_id, rounds in cases.items()]
        for result in results:
            folder.append(result, provenance)
        for case_id in memory:
            folder.append_memory(MemoryCase(case_id=case_id, status="ok"))
        complete = changed.pop("complete", True)
        folder.write_summary(summarize(results, run_id=name, complete=complete, environment=found, run=run))
        return folder.path

    return write


def _facts(case_id: str) -> CaseFacts:
    variant, batch = case_id.split("-b")
    return CaseFacts(id=case_id, variant=variant, batch=int(batch), runtime="torch", device="cuda", status="ok")


def _merged(tmp_path: Path, *folders: Path, complete: bool = True, selection: Selection | None = None) -> Any:
    (tmp_path / "run").mkdir(exist_ok=True)
    parts = [part for folder in folders if (part := read_part(folder.name, folder))]
    return merge(parts, tmp_path / "run", complete=complete, selection=selection or Selection())


def test_shards_become_one_run_in_the_order_of_the_spec(tmp_path: Path, shard: Shard) -> None:
    one = shard("gpu0", {"c-b2": (1.0, 2.0), "c-b1": (3.0,)})
    two = shard("gpu1", {"b-b1": (4.0,), "a-b1": (5.0, 6.0)}, environment={"pytest": "10", "torch_threads": 2})
    ids = ("a-b1", "b-b1", "c-b1", "c-b2")
    summary = _merged(tmp_path, one, two, selection=Selection(memory=ids, latency=ids))
    assert (summary.run_id, summary.complete, summary.notes) == ("run", True, ())
    assert tuple(case.id for case in summary.cases) == ids
    assert summary.table == {"a": {"1": 5.5}, "b": {"1": 4.0}, "c": {"1": 3.0, "2": 1.5}}
    assert read_run(tmp_path / "run") == summary
    rows = [json.loads(line) for line in (tmp_path / "run/results.jsonl").read_text().splitlines()]
    assert {row["run_id"] for row in rows} == {"run"}
    assert [(row["case_id"], row["latency_ms"]) for row in rows][:2] == [("a-b1", 5.0), ("a-b1", 6.0)]
    assert rows[0]["device_profile"]["torch_threads"] == 2
    assert rows[0]["git_commit"] == "c0ffee"
    again = summarize_file(tmp_path / "run/results.jsonl")
    assert again.table == summary.table


def test_the_same_case_counts_once_and_a_note_says_so(tmp_path: Path, shard: Shard) -> None:
    one, two = shard("gpu0", {"a-b1": (1.0,), "b-b1": (2.0,)}), shard("gpu1", {"a-b1": (9.0,), "b-b1": (2.0,)})
    summary = _merged(tmp_path, one, two)
    assert summary.table == {"a": {"1": 1.0}, "b": {"1": 2.0}}
    assert summary.notes == ("a-b1: measured twice; that of gpu0 is kept, that of gpu1 not",)
    assert len((tmp_path / "run/results.jsonl").read_text().splitlines()) == 2


def test_what_was_cut_short_is_missing_and_whole_elsewhere(tmp_path: Path, shard: Shard) -> None:
    one, two = shard("gpu0", {"a-b1": (1.0, 1.0, 1.0), "b-b1": (5.0, 5.0)}), shard("gpu1", {"a-b1": (2.0, 2.0)})
    text = (one / "results.jsonl").read_text().splitlines(keepends=True)
    (one / "results.jsonl").write_text("".join([*text[:2], *text[3:4], '{"schema_version":1,"ben']))
    selection = Selection(latency=("a-b1", "b-b1"), memory=("a-b1", "c-b1"))
    summary = _merged(tmp_path, one, two, selection=selection)
    assert summary.table == {"a": {"1": 2.0}}
    assert summary.complete is False
    assert summary.notes == ("missing: b-b1", "missing: memory of c-b1")
    assert [case.case_id for case in summary.memory_cases] == ["b-b1"]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"environment": {"gpu": "A100"}}, "gpu1: gpu=A100, expected H100, as in gpu0."),
        ({"environment": {"torch": "2.14.0"}}, "torch=2.14.0"),
        ({"environment": {"device": "cpu"}}, "device=cpu, expected cuda"),
        ({"run": {"dtype": "fp32"}}, "dtype=fp32, expected fp16"),
        ({"run": {"protocol": {"rounds": 1}}}, "protocol="),
        ({"run": {"content_digests": ["x"]}}, "frames, sounds or prompts=others"),
        ({"run": {"variants": {"a": {"height": 1}}}}, "variant=a changed"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_shards_of_two_kinds_are_no_run(tmp_path: Path, shard: Shard, changed: dict[str, Any], says: str) -> None:
    one, two = shard("gpu0", {"a-b1": (1.0,)}), shard("gpu1", {"b-b1": (1.0,)}, **changed)
    with pytest.raises(InputError) as error:
        _merged(tmp_path, one, two)
    assert says in str(error.value)
    assert not list((tmp_path / "run").iterdir())


# -- whole runs

# Six cases, of which a CPU measures one in about a second.
SPEC = """\
schema_version: 1
name: small
dtype: fp32
runtimes: [torch]
batches: [1, 2]
protocol: {cpu_budget_s: 0.1, cpu_warmup_s: 0}
variants:
  - {name: midas_small_64, family: midas, model: MiDaS_small, height: 64, width: 64}
  - {name: midas_small_96, family: midas, model: MiDaS_small, height: 96, width: 96}
  - {name: raft_small_128, family: raft, model: raft_small, height: 128, width: 128}
"""
# Two workers that share a CPU with each other must not wait for each other's threads.
DRIVER = """\
import sys
from pathlib import Path
from fixtures.errors import InputError
from fixtures.parallel.run import ShardedRun, run_shards
from fixtures.parallel.workers import Worker
folder, resume, *arguments = sys.argv[1:]
workers = [Worker(name, "a CPU", {"OMP_NUM_THREADS": "1"}) for name in ("cpu0", "cpu1")]
run = ShardedRun(Path(folder), tuple(arguments), resume == "resume", Path(folder).parent / "b.json")
try:
    sys.exit(run_shards(workers, run, lambda line: print(line, flush=True), 120))
except InputError as error:
    sys.stderr.write(f"ERROR: {error}\\n")
    sys.exit(2)
"""


SELECTED = ("-k", "test_latency or midas_small_64-b1 or raft_small_128-b1")


class Parent:
    """The parent of two CPU workers, as a process."""

    def __init__(self, suite: Suite, spec: Path) -> None:
        self.folder = suite.folder / "out" / "r"
        self._arguments = ["bench_tests", "-p", "no:cacheprovider", "--device", "cpu", "--spec", str(spec)]
        self._arguments += ["--models-root", str(suite.models_root)]

    def start(self, resume: bool, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", DRIVER, str(self.folder), "resume" if resume else "new"]
        return subprocess.Popen(
            [*command, *self._arguments, *more],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finished(self) -> dict[str, float]:
        """Case → its first round, of every whole case on disk."""
        found: dict[str, float] = {}
        for folder in (self.folder, *self.folder.glob("shards/*/")):
            if part := read_part(folder.name, folder):
                found |= {result.facts.id: result.rounds_ms[0] for result in part.results}
        return found

    def wait_for(self, process: subprocess.Popen[str], count: int) -> None:
        """Until so many cases are on disk."""
        wait_until(lambda: process.poll() is not None or len(self.finished()) >= count)
        assert process.poll() is None, process.communicate()[0]

    def workers(self, process: subprocess.Popen[str]) -> list[psutil.Process]:
        return [
            child for child in psutil.Process(process.pid).children() if "fixtures.sessions.worker" in child.cmdline()
        ]


@pytest.fixture
def parent(suite: Suite, tmp_path: Path) -> Iterator[Parent]:
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC)
    yield Parent(suite, spec)
    for process in psutil.process_iter(["cmdline"]):
        assert str(suite.folder) not in " ".join(process.info["cmdline"] or ()), "nothing is left behind"


def test_killed_at_any_moment_a_run_of_two_workers_loses_nothing_and_goes_on(
    suite: Suite, parent: Parent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [case.id for case in cases_of(load_spec(tmp_path / "spec.yaml"))]
    _kill_the_parent(parent)
    _kill_a_worker_and_interrupt_the_other(parent, ids)

    before = parent.finished()
    process = parent.start(True, *SELECTED)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    summary = read_run(parent.folder)
    assert (summary.complete, summary.run_id) == (True, "r")
    assert [case.id for case in summary.cases] == ids
    assert before.items() <= parent.finished().items()
    sources = {case.id: case.memory.source for case in summary.cases if case.memory}
    in_fresh_process = {case_id for case_id, source in sources.items() if source == "fresh_process"}
    assert in_fresh_process == {"midas_small_64-b1-fp32-torch", "raft_small_128-b1-fp32-torch"}
    document = json.loads((parent.folder.parent / "b.json").read_text())
    assert [entry["param"] for entry in document["benchmarks"]] == ids
    assert (document["pretriton"]["run_id"], document["pretriton"]["complete"]) == ("r", True)
    assert summarize_file(parent.folder.parent / "b.json").table.keys() == summary.table.keys()

    rows = (parent.folder / "results.jsonl").read_bytes()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    alone = suite.command("--spec", str(tmp_path / "spec.yaml"), "--run-id", "r", "--resume", *SELECTED)
    ended = subprocess.run(alone, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (parent.folder / "results.jsonl").read_bytes() == rows, "a run of one process goes on with it"
    assert read_run(parent.folder).complete is True


def _kill_the_parent(parent: Parent) -> None:
    process = parent.start(False, *SELECTED)
    parent.wait_for(process, 1)
    pids = [child.pid for child in parent.workers(process)]
    process.kill()
    process.communicate()
    assert len(pids) == 2
    wait_until(lambda: not _running(pids), seconds=20)  # by themselves they would take longer


def _kill_a_worker_and_interrupt_the_other(parent: Parent, ids: Sequence[str]) -> None:
    before = parent.finished()
    process = parent.start(True, *SELECTED)
    parent.wait_for(process, len(before) + 1)
    parent.workers(process)[0].kill()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[0]
    assert process.returncode == 130, said
    assert " was ended by SIGKILL" in said
    assert "interrupted by SIGINT; --resume goes on" in said
    summary = read_run(parent.folder)
    assert summary.complete is False
    finished = parent.finished()
    assert before.items() <= finished.items(), "finished cases are not measured again"
    assert {case.id for case in summary.cases} == finished.keys()
    assert {f"missing: {case_id}" for case_id in ids if case_id not in finished} <= set(summary.notes)


def test_bad_input_is_said_once_and_leaves_nothing(parent: Parent) -> None:
    process = parent.start(False, "--variants", "midas_small_65")
    said = process.communicate()[0]
    assert process.returncode == 2, said
    (line,) = [line for line in said.splitlines() if "ERROR" in line]
    assert line.startswith("ERROR: --variants midas_small_65: variant='midas_small_65', expected names of small: midas")
    assert not parent.folder.exists()
    process = parent.start(True)
    assert "run=missing" in process.communicate()[0]
    assert process.returncode == 2
    parent.folder.mkdir(parents=True)
    process = parent.start(False)
    assert "expected a run that is new" in process.communicate()[0]


# -- one process of several


def test_a_worker_measures_what_is_free_and_says_whose_the_rest_is(suite: Suite, small_spec: Path) -> None:
    """gpu1 has read the memory of midas, and is still at that of raft."""
    run = suite.folder / "out" / "r"
    claims = Claims(run / "claims", "gpu1")
    ids = ("midas_small_64-b1-fp32-torch", "raft_small_128-b1-fp32-torch")
    for case_id in ids:
        claims.claim("test_memory", case_id)
    read = MemoryCase(case_id=ids[0], status="ok", memory=MEMORY, notes=("read by gpu1",))
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
    assert (case.id, case.memory, case.notes[0]) == (read.case_id, MEMORY, "read by gpu1")
    assert claims.owner("test_latency", ids[1]) is None, "whoever reads its memory times it, too"
    assert read_selection(run / "claims") == Selection(memory=ids, latency=ids)
