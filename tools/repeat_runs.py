"""Measure the same cases several times, each time in a process of its own, and several sides in turn.

python -m tools.repeat_runs --repeats 5 --run-id NAME [--side NAME=ARGUMENTS] [--checkout NAME=DIR] -- ARGUMENTS

ARGUMENTS are those of pytest: the ones after `--` for every run, those of a side for its own runs. Sides are measured
in turn, each round in the opposite order of the one before, so that a drift meets all sides alike. Another checkout can
measure a side, in the environment of its .venv where it has one. Runs go to `out/NAME/SIDE/1`, `2`, …; the same command
again keeps the complete ones and goes on. Then:
python -m tools.compare_runs out/NAME/SIDE out/NAME/OTHER
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fixtures.errors import InputError, system_errors
from fixtures.results.run_folder import SUMMARY, RunFolder
from tools import command_line

_ROOT = Path(__file__).parent.parent
# Seconds that an interrupted pytest gets to write its last summary before it is terminated. Judgment: a call on a CPU
# and a summary take less, and longer would make a person press Ctrl-C again.
_STOPS_WITHIN_S = 30
_ARGUMENTS = "arguments.txt"  # beside the runs of a side: the arguments that they were measured with
_OWN_OPTIONS = ("--out", "--run-id", "--resume", "--benchmark-json")


@dataclass(frozen=True)
class Side:
    """What is measured under a name: pytest with these arguments, in a checkout."""

    name: str
    arguments: tuple[str, ...] = ()
    checkout: Path = _ROOT

    @property
    def python(self) -> str:
        """The interpreter of the checkout's own environment, or this one."""
        own = self.checkout / ".venv" / "bin" / "python"
        return str(own) if self.checkout != _ROOT and own.exists() else sys.executable


def main() -> int:
    """Measure every side of the command line; returns the exit code."""
    arguments = _parsed()
    sides = _sides(arguments.side, arguments.checkout)
    common = arguments.arguments[1:] if arguments.arguments[:1] == ["--"] else arguments.arguments
    _refuse_own_options(common, *(side.arguments for side in sides))
    if arguments.repeats < 1:
        raise InputError("--repeats", f"value={arguments.repeats}", "at least 1", "Write 5 for a verdict.")
    folder = Path(arguments.out).resolve() / arguments.run_id
    for side in sides:
        _require_same_arguments(side, common, folder / side.name)
    worst = 0
    for repeat, side in in_turn(sides, arguments.repeats):
        code = _measure(side, common, folder / side.name, str(repeat))
        if code not in (0, 1):
            return code
        worst = max(worst, code)
    folders = shlex.join(str(Path(arguments.out) / arguments.run_id / side.name) for side in sides)
    print(f"measured {arguments.repeats} times: {folders}")
    if len(sides) > 1:
        print(f"python -m tools.compare_runs {folders}")
    return worst


def in_turn(sides: Sequence[Side], repeats: int) -> Iterator[tuple[int, Side]]:
    """Repeat and side of every run: each round has every side once, every other round in reverse, so drifts cancel."""
    for repeat in range(1, repeats + 1):
        for side in sides if repeat % 2 else reversed(sides):
            yield repeat, side


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="processes for each side (default: 5)")
    parser.add_argument("--run-id", required=True, help="name of the folder below --out")
    parser.add_argument("--out", default="out", help="where runs are kept (default: out)")
    parser.add_argument("--side", action="append", metavar="NAME=ARGUMENTS", help="a side; may be repeated")
    parser.add_argument("--checkout", action="append", metavar="NAME=DIR", help="checkout that measures a side")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- ARGUMENTS", help="of pytest, for all sides")
    return parser.parse_args()


def _sides(given: list[str] | None, checkouts: list[str] | None) -> list[Side]:
    sides = {name: Side(name, _split(name, text)) for name, text in _named("--side", given or ["run="])}
    for name, folder in _named("--checkout", checkouts or []):
        if name not in sides:
            raise InputError("--checkout", f"side={name}", f"one of {', '.join(sides)}", "Add it with --side NAME=.")
        checkout = Path(folder).resolve()
        if not (checkout / "bench_tests").is_dir():
            raise InputError("--checkout", f"{folder}=no checkout", "a folder with bench_tests", "Check the path.")
        sides[name] = Side(name, sides[name].arguments, checkout)
    return list(sides.values())


def _split(name: str, text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        rule = "arguments as in a shell"
        raise InputError(f"--side {name}", f"value={text!r} ({error})", rule, "Close the quotation.") from None


def _named(option: str, given: list[str]) -> Iterator[tuple[str, str]]:
    seen = set()
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier() or name in seen:
            rule = "NAME=…, each name once, of letters, digits and underscores"
            raise InputError(option, f"value={text!r}", rule, 'Write new="-k midas", say.')
        seen.add(name)
        yield name, value


def _refuse_own_options(*arguments: Sequence[str]) -> None:
    for option in (option for one in arguments for option in one if option.split("=")[0] in _OWN_OPTIONS):
        raise InputError(option, "value=among pytest's arguments", "that of this tool", "Leave it out there.")


def _require_same_arguments(side: Side, common: Sequence[str], out: Path) -> None:
    """Raises InputError where runs of this name have other arguments: they would count as repeats of these."""
    where = f"--run-id {out.parent.name}"
    with system_errors(where, "folder", "a folder to write to", "Choose another name."):
        runs = list(out.glob(f"*/{SUMMARY}"))
        then = os.fsdecode((out / _ARGUMENTS).read_bytes()).strip() if runs and (out / _ARGUMENTS).exists() else None
    now = _fingerprint(side, common)
    if then is not None and then != now:
        what = f"arguments of {side.name}={now!r}"
        raise InputError(where, what, f"{then!r}, with which {len(runs)} were measured", "Choose another name.")


def _fingerprint(side: Side, common: Sequence[str]) -> str:
    """Checkout and arguments of a side, in a line."""
    checkout = [] if side.checkout == _ROOT else [str(side.checkout)]
    return shlex.join([*checkout, *common, *side.arguments])


def _measure(side: Side, common: Sequence[str], out: Path, run_id: str) -> int:
    """Measure one run, resume it, or keep it where it is complete; returns pytest's exit code."""
    run = out / run_id
    with system_errors(f"--run-id {out.parent.name}", "folder", "a folder to write to", "Choose another name."):
        begun = RunFolder(run).read_summary() if (run / SUMMARY).exists() else None
        if begun and begun.complete:
            print(f"{side.name}, {run_id}: measured before")
            return 0
        out.mkdir(parents=True, exist_ok=True)
        (out / _ARGUMENTS).write_bytes(os.fsencode(_fingerprint(side, common) + "\n"))
    resumed = ["--resume"] if begun else []
    tests = [] if any("bench_tests" in argument for argument in (*common, *side.arguments)) else ["bench_tests"]
    command = [side.python, "-m", "pytest", *tests, *common, *side.arguments, "--out", str(out), "--run-id", run_id]
    print(f"{side.name}, {run_id}: {shlex.join(command[1:])}", flush=True)
    with subprocess.Popen([*command, *resumed], cwd=side.checkout) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # A terminal interrupts pytest, too, which then ends in order.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=_STOPS_WITHIN_S)
            process.terminate()
            print(f"interrupted; the same command goes on with {run}")
            return 130


if __name__ == "__main__":
    command_line.run(main)
