"""Measure on a Ray cluster, one task for each variant, on the GPU that the variant asks for.

python -m tools.run_fleet --spec SPEC [--address ray://HOST:PORT] [--run-id NAME] [--models-root DIR] -- ARGUMENTS

ARGUMENTS are further ones of `pytest bench_tests`. Without --address this machine is the cluster. Results are on disk
as they arrive, and merged into out/<run_id>/, or into out/<run_id>/<device>/ where there are several devices. Exit code
1: a case failed, or a shard is missing; 2: bad input; 130 or 143: interrupted, and --resume goes on.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from fixtures.parallel.arguments import add_run_options, fleet_run
from fixtures.parallel.fleet import FleetRun, run_fleet
from fixtures.parallel.ray_cluster import Cluster
from fixtures.spec import load_spec
from tools import command_line


def main() -> int:
    """Measure on the cluster of the command line and merge; returns the exit code."""
    own, pytest_arguments = command_line.parted(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", type=Path, required=True, help="what to measure, and on which GPUs")
    parser.add_argument(
        "--address", metavar="URL", help="the cluster, such as ray://head:10001 (default: this machine)"
    )
    parser.add_argument(
        "--models-root", metavar="DIR", help="on the workers (default: DP_MODELS_ROOT there, then here)"
    )
    parser.add_argument("--dtype", metavar="fp32|tf32|fp16", help="precision class, instead of the spec's")
    add_run_options(parser)
    given = parser.parse_args(own)
    run, on_cpu = fleet_run(given, pytest_arguments)
    if given.dtype:
        run = replace(run, arguments=(*run.arguments, "--dtype", given.dtype))
    fleet = FleetRun(
        run, given.spec, load_spec(given.spec), given.models_root, os.environ.get("DP_MODELS_ROOT"), on_cpu
    )
    _report(f"run: {run.folder}" + (" (resumed)" if run.resume else ""))
    with Cluster(given.address) as cluster:
        return run_fleet(fleet, cluster, _report, shutil.get_terminal_size().columns)


def _report(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    command_line.run(main)
