"""Compare runs: per case the ratio of latencies with its 95% interval, and a verdict.

python -m tools.compare_runs BASELINE RUN [RUN ...] [--fail-slower 5% [--allow-inconclusive]] [-o comparison.json]

Each is a run's folder, its summary.json or results.jsonl, a benchmark JSON, or a folder of repeated runs as
`tools.repeat_runs` makes them. With fewer than three runs a side the spread between processes is assumed.

Verdicts: faster, slower (the interval excludes 1, and the difference is at least 3%), same (all of the interval lies
within 3% of 1), inconclusive (the interval shows neither), failed (no time any more), not comparable.

Exit code 1 with --fail-slower 5%: a case is slower by that much, cannot exclude that it is (unless
--allow-inconclusive), has failed, or is missing from a run that was cut short.
"""

from __future__ import annotations

import argparse
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fixtures.comparison import compare
from fixtures.comparison.gate import Judgment, judge
from fixtures.comparison.ratio import MIN_DIFFERENCE
from fixtures.comparison.reasons import interval
from fixtures.errors import InputError
from fixtures.records import ComparedCase, ComparedRuns, Comparison
from fixtures.results.run_folder import write_output
from tools import command_line

_MIN_WIDTH = 140  # of the table where standard output is no terminal


def main() -> int:
    """Parse the command line, compare, print, write, and judge."""
    arguments = _parser().parse_args()
    limit = None if arguments.fail_slower is None else _percent(arguments.fail_slower)
    if limit is None and arguments.allow_inconclusive:
        raise InputError("--allow-inconclusive", "--fail-slower=missing", "a gate to relax", "Add --fail-slower 5%.")
    comparison = compare([arguments.baseline, *arguments.runs])
    # Before anything is written: a gate that cannot judge is bad input.
    judgments = [] if limit is None else [one for pair in comparison.pairs for one in judge(pair, limit)]
    if arguments.output is not None:
        text = comparison.model_dump_json(indent=2) + "\n"
        write_output(arguments.output, text, [arguments.baseline, *arguments.runs])
    _print(comparison)
    if arguments.output is not None:
        print(f"wrote {arguments.output}")
    if limit is None:
        return 0
    cases = sum(len(pair.cases) for pair in comparison.pairs)
    return _gate(judgments, cases, limit, allow_inconclusive=arguments.allow_inconclusive)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("baseline", type=Path, metavar="BASELINE", help="run to compare with")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run to compare")
    parser.add_argument(
        "--fail-slower", metavar="PERCENT", help="end with 1 unless every case excludes it; such as 5%%"
    )
    parser.add_argument(
        "--allow-inconclusive", action="store_true", help="let cases pass that neither show nor exclude the slowdown"
    )
    parser.add_argument("-o", "--output", type=Path, help="comparison.json to write")
    return parser


def _gate(judgments: Sequence[Judgment], cases: int, limit: float, *, allow_inconclusive: bool) -> int:
    """Print why cases fail or pass all the same, and the counts; returns the exit code."""
    counts = Counter(one.outcome for one in judgments)
    passing = {"passed": "PASSED", **({"inconclusive": "ALLOWED"} if allow_inconclusive else {})}
    for one in judgments:
        if one.reason:
            print(f"{passing.get(one.outcome, 'FAILED')} {one.case_id}: {one.reason}")
    failed = sum(count for outcome, count in counts.items() if outcome not in passing)
    counted = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    judged = len(judgments) - counts["missing"]
    print(f"--fail-slower {limit * 100:g}%: judged {judged} of {cases} cases, {failed} failed ({counted})")
    if counts["inconclusive"] and not allow_inconclusive:
        print("Measure inconclusive cases in more processes with tools.repeat_runs, or pass --allow-inconclusive.")
    return 1 if failed else 0


def _print(comparison: Comparison) -> None:
    # Ids and paths come from a person: what looks like markup in them is none.
    width = max(shutil.get_terminal_size().columns, _MIN_WIDTH)
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    for pair in comparison.pairs:
        console.print(_table(pair))
        for line in _remarks(pair):
            console.print(line, soft_wrap=True)


def _percent(text: str) -> float:
    """A part of 1, from `5%` or `5`. Raises InputError."""
    if not re.fullmatch(r"\d+(\.\d+)?%?", text) or math.isinf(float(text.rstrip("%"))):
        raise InputError("--fail-slower", f"value={text!r}", "a percentage such as 5%", "Write it so.")
    percent = float(text.rstrip("%"))
    if percent < MIN_DIFFERENCE * 100:
        rule = f"at least {MIN_DIFFERENCE:.0%}: smaller differences get no verdict"
        raise InputError("--fail-slower", f"value={text!r}", rule, "Write 5%, for example.")
    return percent / 100


def _table(pair: ComparedRuns) -> Table:
    sides = [f"{side.path} ({len(side.run_ids)})" for side in (pair.baseline, pair.candidate)]
    table = Table(title=f"{sides[1]} against {sides[0]}; in brackets the processes", title_justify="left")
    table.add_column("case", overflow="fold")
    for heading in ("before ms", "after ms", "ratio", "95% interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("why", overflow="fold")
    for case in pair.cases:
        table.add_row(case.id, *_figures(case), case.verdict.replace("_", " "), case.reason)
    return table


def _figures(case: ComparedCase) -> tuple[str, ...]:
    before, after = ("" if p50 is None else f"{p50:.3f}" for p50 in case.p50_ms)
    if case.ratio is None or case.interval is None:
        return before, after, "", ""
    return before, after, f"{case.ratio:.3f}", interval(*case.interval)


def _remarks(pair: ComparedRuns) -> Iterator[str]:
    verdicts = [case.verdict for case in pair.cases]
    counted = ", ".join(f"{verdicts.count(one)} {one.replace('_', ' ')}" for one in dict.fromkeys(verdicts))
    yield counted or "no case is in both"
    yield from (f"only in {pair.baseline.path}: {case_id}" for case_id in pair.only_in_baseline)
    yield from (f"only in {pair.candidate.path}: {case_id}" for case_id in pair.only_in_candidate)
    yield from (f"note: {note}" for note in pair.notes)


if __name__ == "__main__":
    command_line.run(main)
