"""fixtures.parallel.worker_pool: output by worker, interrupts passed on, and no worker outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from fixtures.parallel.worker_pool import WorkerPool
from fixtures.parallel.workers import Worker
from meta_tests.conftest import ROOT, wait_until

ANSWERS_S = 30  # the scripts answer at once, and sleep longer than this


def _script(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_lines_carry_the_worker_name_and_bad_input_is_kept_apart() -> None:
    said: list[str] = []
    pool = WorkerPool(said.append)
    loud = "import sys; print('hello'); sys.stderr.write('ERROR: bad\\n'); sys.exit(2)"
    shown = "import os; print(os.environ['GPU'], sorted(os.sched_getaffinity(0)))"
    cpu = min(os.sched_getaffinity(0))
    pool.work(
        [
            (Worker("gpu0", ""), _script(loud)),
            (Worker("gpu1", "", {"GPU": "one"}, frozenset({cpu})), _script(shown)),
            (Worker("gpu2", ""), _script("import os; os.kill(os.getpid(), 9)")),
            (Worker("gpu3", ""), _script("raise SystemExit(2)")),
        ]
    )
    assert sorted(said) == ["[gpu0] hello", f"[gpu1] one [{cpu}]"]
    assert [child.errors for child in pool.children] == [["ERROR: bad"], [], [], []]
    assert [child.exit_code for child in pool.children] == [2, 0, 1, 1]
    assert [child.failure for child in pool.children] == [None, None, "was ended by SIGKILL", "was interrupted"]


IN_ORDER = "import time\ntry:\n print('up', flush=True); time.sleep(60)\nexcept KeyboardInterrupt:\n print('down')"
STUBBORN = "import signal, time; signal.signal(signal.SIGINT, lambda *_: None); print('up', flush=True); time.sleep(60)"


@pytest.mark.parametrize(("script", "interrupts"), [(IN_ORDER, 1), (STUBBORN, 2)], ids=["in order", "stubborn"])
def test_first_interrupt_is_passed_on_and_second_one_kills(script: str, interrupts: int) -> None:
    said: list[str] = []

    def interrupt(line: str) -> None:
        said.append(line)
        if line.endswith("up") and sum(text.endswith("up") for text in said) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            if interrupts == 2:  # a second one that comes before the first was handled is none
                wait_until(lambda: pool.interrupted_by is not None, ANSWERS_S)
                os.kill(os.getpid(), signal.SIGTERM)

    pool = WorkerPool(interrupt)
    started = time.monotonic()
    with pool.passing_on_interrupts():
        pool.work([(Worker(name, ""), _script(script)) for name in ("a", "b")])
    assert time.monotonic() - started < ANSWERS_S
    assert pool.interrupted_by == signal.SIGTERM
    assert sum(line.endswith("down") for line in said) == (2 if interrupts == 1 else 0)


def test_workers_end_when_their_parent_is_killed() -> None:
    code = (
        "import sys\nfrom fixtures.parallel.worker_pool import WorkerPool\n"
        "from fixtures.parallel.workers import Worker\n"
        "command = [sys.executable, '-c', 'import os, time; print(os.getpid(), flush=True); time.sleep(60)']\n"
        "pool = WorkerPool(lambda line: print(line, flush=True))\n"
        "pool.work([(Worker('a', ''), command), (Worker('b', ''), command)])"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [psutil.Process(int(parent.stdout.readline().split()[1])) for _ in range(2)]
        parent.kill()
    assert psutil.wait_procs(workers, timeout=ANSWERS_S)[1] == []
