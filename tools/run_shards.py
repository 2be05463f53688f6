"""Measure on several GPUs of one machine, one process each, and merge the results into one run.

python -m tools.run_shards --gpus 0,1 [--run-id NAME] [--out out] [--resume] [--benchmark-json FILE] -- ARGUMENTS

ARGUMENTS are those of `pytest bench_tests`. Each worker takes the next case when it is free. `make bench GPUS=0,1`
does this. Exit code 1: a case failed, or a worker died; 2: bad input; 130 or 143: interrupted, and --resume goes on.
"""

from __future__ import annotations

import argparse
import shutil
import sys

from fixtures.parallel.arguments import add_run_options, sharded_run
from fixtures.parallel.run import run_shards
from fixtures.parallel.workers import Worker, gpu_workers
from tools import command_line


def main() -> int:
    """Measure on the GPUs of the command line and merge; returns the exit code."""
    own, pytest_arguments = command_line.parted(sys.argv[1:])
    given = parser().parse_args(own)
    workers = gpu_workers(given.gpus)
    run = sharded_run(given, pytest_arguments)
    _report(f"run: {run.folder}" + (" (resumed)" if run.resume else ""))
    for worker in workers:
        _report(f"[{worker.name}] {worker.product}, {_cpus(worker)}")
    return run_shards(workers, run, _report, shutil.get_terminal_size().columns)


def parser() -> argparse.ArgumentParser:
    """The parser of the arguments before `--`."""
    own = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    own.add_argument("--gpus", required=True, metavar="N[,N]", help="numbers of the GPUs, as nvidia-smi shows them")
    add_run_options(own)
    return own


def _cpus(worker: Worker) -> str:
    return "all CPUs" if worker.cpus is None else f"{len(worker.cpus)} CPUs of its own"


def _report(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    command_line.run(main)
