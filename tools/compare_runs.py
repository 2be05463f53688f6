"""Compare runs: per case the ratio of latencies with its interval, and whether that is faster, slower or a tie.

python -m tools.compare_runs BASELINE RUN [RUN ...] [--fail-slower 5%] [-o comparison.json]

Each is a run's folder, its summary.json or results.jsonl, a benchmark JSON, or a folder of repeated runs as
`tools.repeat_runs` makes them. One run a side gives a first impression, three or more a verdict from their own spread.
Exit code 1 with --fail-slower: a case is slower by that much, or has no time any more.
"""

from __future__ import annotations

import argparse
import math
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fixtures.comparison import compare
from fixtures.comparison.ratio import MIN_DIFFERENCE
from fixtures.errors import InputError
from fixtures.records import ComparedCase, ComparedRuns
from fixtures.results.run_folder import write_output
from tools import command_line

_ROUNDING = 1e-9  # of a ratio that comes from logarithms
_MIN_WIDTH = 140  # of the table where nobody looks at it in a terminal


def main() -> int:
    """Parse the command line, compare, show, write, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("baseline", type=Path, metavar="BASELINE", help="run to compare with")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run to compare")
    parser.add_argument("--fail-slower", metavar="PERCENT", help="end with 1 if a case is slower by this, such as 5%%")
    parser.add_argument("-o", "--output", type=Path, help="comparison.json to write")
    arguments = parser.parse_args()
    allowed = None if arguments.fail_slower is None else _percent(arguments.fail_slower)
    comparison = compare([arguments.baseline, *arguments.runs])
    # Before anything is written: a gate that cannot judge is bad input.
    failures = [] if allowed is None else [one for pair in comparison.pairs for one in _failures(pair, allowed)]
    if arguments.output is not None:
        text = comparison.model_dump_json(indent=2) + "\n"
        write_output(arguments.output, text, [arguments.baseline, *arguments.runs])
    # Ids and paths are a person's: what looks like markup in them is none.
    width = max(shutil.get_terminal_size().columns, _MIN_WIDTH)
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    for pair in comparison.pairs:
        console.print(_table(pair))
        for line in _remarks(pair):
            console.print(line, soft_wrap=True)
    if arguments.output is not None:
        print(f"wrote {arguments.output}")
    if allowed is None:
        return 0
    for failure in failures:
        print(f"FAILED {failure}")
    cases = [case for pair in comparison.pairs for case in pair.cases]
    said = (
        f"--fail-slower {allowed * 100:g}%: judged {len(_judged(cases))} of {len(cases)} cases, {len(failures)} failed"
    )
    blind = sum(_is_blind(case, allowed) for case in cases)
    print(said + (f"; {blind} spread so much that {allowed * 100:g}% would not show" if blind else ""))
    return 1 if failures else 0


def _judged(cases: Sequence[ComparedCase]) -> list[ComparedCase]:
    return [case for case in cases if case.verdict != "not_comparable"]


def _is_blind(case: ComparedCase, allowed: float) -> bool:
    """Whether a candidate that is slower by `allowed` would be called a tie."""
    return case.interval is not None and math.sqrt(case.interval[1] / case.interval[0]) >= 1 + allowed


def _percent(text: str) -> float:
    """A part of 1, from `5%` or `5`. Raises InputError."""
    if not re.fullmatch(r"\d+(\.\d+)?%?", text) or math.isinf(float(text.rstrip("%"))):
        raise InputError("--fail-slower", f"value={text!r}", "a percentage such as 5%", "Write it so.")
    percent = float(text.rstrip("%"))
    if percent < MIN_DIFFERENCE * 100:
        rule = f"at least {MIN_DIFFERENCE:.0%}: smaller differences are ties"
        raise InputError("--fail-slower", f"value={text!r}", rule, "Write 5%, for example.")
    return percent / 100


def _failures(pair: ComparedRuns, allowed: float) -> Iterator[str]:
    """What a gate does not let pass. Raises InputError when it could not judge anything."""
    judged = _judged(pair.cases)
    if not judged:
        reasons = dict.fromkeys(case.reason for case in pair.cases)
        what = f"comparable cases=0 ({'; '.join(reasons) or 'no case is in both'})"
        rule = "runs of the same cases on the same machine"
        raise InputError(f"--fail-slower, {pair.candidate.path}", what, rule, "Measure the baseline again here.")
    for case in judged:
        if case.verdict == "failed":
            yield f"{case.id}: {case.reason}"
        elif case.verdict == "slower" and case.ratio is not None and case.ratio >= 1 + allowed - _ROUNDING:
            yield f"{case.id}: {case.ratio - 1:.1%} slower, at most {allowed * 100:g}% allowed"
    if not pair.candidate.complete:
        for case_id in pair.only_in_baseline:
            yield f"{case_id}: missing, and {pair.candidate.path} is not complete"


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
    low, high = case.interval
    return before, after, f"{case.ratio:.3f}", f"{low:.3f} to {high:.3f}"


def _remarks(pair: ComparedRuns) -> Iterator[str]:
    verdicts = [case.verdict for case in pair.cases]
    counted = ", ".join(f"{verdicts.count(one)} {one.replace('_', ' ')}" for one in dict.fromkeys(verdicts))
    yield counted or "no case is in both"
    yield from (f"only in {pair.baseline.path}: {case_id}" for case_id in pair.only_in_baseline)
    yield from (f"only in {pair.candidate.path}: {case_id}" for case_id in pair.only_in_candidate)
    yield from (f"note: {note}" for note in pair.notes)
    if any(case.assumed for case in pair.cases):
        yield (
            "Fewer than three processes on a side: their spread is assumed. A difference that decides something needs "
            "several: python -m tools.repeat_runs --repeats 5"
        )


if __name__ == "__main__":
    command_line.run(main)
