"""Make summary.json from a benchmark JSON or from a results.jsonl alone.

python -m tools.summarize FILE [-o summary.json] [--bench pretriton] [--run-id NAME]

What was unusable in the file is counted and named, in the summary and on standard error.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from fixtures.errors import InputError
from fixtures.records import CaseFacts, CaseSummary, MemoryCase, Summary
from fixtures.results import write_atomically
from fixtures.rows import CaseResult, Reading, is_time, read_results
from fixtures.summary import summarize
from tools import command_line

T = TypeVar("T")


def main() -> int:
    """Parse the command line, summarize, write or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, help="benchmark JSON or results.jsonl")
    parser.add_argument("--in", dest="file_option", type=Path, metavar="FILE", help="the same, as an option")
    parser.add_argument("-o", "--output", type=Path, help="summary.json to write (default: standard output)")
    parser.add_argument("--bench", default="pretriton", help="rows of this bench only (default: pretriton)")
    parser.add_argument("--run-id", help="rows of this run only, where a results.jsonl holds several")
    arguments = parser.parse_args()
    file = arguments.file or arguments.file_option
    if file is None or (arguments.file and arguments.file_option):
        raise InputError("summarize", "FILE=none or two", "one file", "Name a benchmark JSON or a results.jsonl.")
    summary = summarize_file(file, arguments.bench, arguments.run_id)
    for reason, count in summary.unusable.items():
        print(f"{file}: unusable: {count} x {reason}", file=sys.stderr)
    _emit(summary, arguments.output)
    return 0


def summarize_file(file: Path, bench: str = "pretriton", run_id: str | None = None) -> Summary:
    """The summary of a benchmark JSON or a results.jsonl.

    Args:
        bench, run_id: rows of this bench and of this run only; the run must be named where there are several.

    Raises:
        InputError: nothing in the file is usable, or it holds several runs.
    """
    try:
        text = file.read_text(errors="replace")
    except OSError as error:
        raise InputError(str(file), f"file={error.strerror}", "a readable file", "Check the path.") from None
    document = _benchmark_document(text)
    if document is None:
        summary = _from_rows(file, read_results(text.splitlines(), bench, run_id))
    else:
        summary = _from_benchmarks(document)
    if not summary.cases and not summary.memory_cases:
        found = "; ".join(f"{count} x {reason}" for reason, count in summary.unusable.items()) or "nothing"
        raise InputError(str(file), f"usable cases=0 ({found})", "rows of this suite", "Name another file.")
    return summary


def _benchmark_document(text: str) -> dict[str, Any] | None:
    try:
        document = from_json(text)
    except ValueError:
        return None
    return document if isinstance(document, dict) and isinstance(document.get("benchmarks"), list) else None


def _from_rows(file: Path, reading: Reading) -> Summary:
    if len(reading.run_ids) > 1:
        # One table of two runs would compare their machines, or show the same case twice.
        found = ", ".join(reading.run_ids)
        raise InputError(str(file), f"run_id={found}", "rows of one run", "Choose one with --run-id.")
    notes = [f"{case_id} was cut short: {how}" for case_id, how in reading.cut_short.items()]
    # Rows cannot tell which cases are missing, so such a summary never calls itself complete.
    notes.append("made from rows alone")
    return summarize(
        reading.results,
        run_id=next(iter(reading.run_ids), None),
        complete=False,
        environment=reading.device_profile,
        unusable=dict(reading.unusable),
        notes=tuple(notes),
    )


def _from_benchmarks(document: dict[str, Any]) -> Summary:
    unusable = Counter[str]()
    timed = _usable(map(_timed, document["benchmarks"]), "benchmark without a case of this suite", unusable)
    run = _typed(document, "pretriton", dict, unusable) or {}
    untimed = _typed(run, "cases_without_timing", list, unusable) or []
    untimed = _usable(map(_untimed, untimed), "case without timing that is no case", unusable)
    memory = _typed(run, "memory_cases", list, unusable) or []
    memory = _usable(map(_memory, memory), "memory of a case that is no case", unusable)
    return summarize(
        [*timed, *untimed],
        run_id=_typed(run, "run_id", str, unusable),
        complete=run.get("complete") is True,
        environment=_typed(run, "environment", dict, unusable) or {},
        run=_typed(run, "run", dict, unusable) or {},
        memory_cases=tuple(memory),
        unusable=dict(unusable),
    )


def _usable(found: Iterable[T | None], reason: str, unusable: Counter[str]) -> list[T]:
    """What was found, without what could not be read, which is counted."""
    entries = list(found)
    if None in entries:
        unusable[reason] = entries.count(None)
    return [entry for entry in entries if entry is not None]


def _typed(record: dict[str, Any], key: str, kind: type[T], unusable: Counter[str]) -> T | None:
    """A value of a record if it is of this kind; what is of another kind is counted."""
    value = record.get(key)
    if isinstance(value, kind):
        return value
    if value is not None:
        unusable[f"{key} that is no {kind.__name__}"] += 1
    return None


def _timed(entry: Any) -> CaseResult | None:
    try:
        facts, seconds = _facts(entry["extra_info"]["case"]), entry["stats"]["data"]
        rounds_ms = tuple(second * 1e3 for second in seconds)
    except (KeyError, TypeError, OverflowError):
        return None
    return CaseResult(facts, rounds_ms) if facts and rounds_ms and all(map(is_time, rounds_ms)) else None


def _untimed(case: Any) -> CaseResult | None:
    facts = _facts(case)
    return CaseResult(facts) if facts else None


def _memory(case: Any) -> MemoryCase | None:
    try:
        return MemoryCase.model_validate(case)
    except ValidationError:
        return None


def _facts(case: Any) -> CaseFacts | None:
    if not isinstance(case, dict):
        return None
    own_fields = set(CaseSummary.model_fields) - set(CaseFacts.model_fields)
    try:
        return CaseFacts.model_validate({key: value for key, value in case.items() if key not in own_fields})
    except ValidationError:
        return None


def _emit(summary: Summary, output: Path | None) -> None:
    text = summary.model_dump_json(indent=2) + "\n"
    if output is None:
        sys.stdout.write(text)
        return
    try:
        write_atomically(output, text)
    except OSError as error:
        raise InputError(f"-o {output}", f"file={error.strerror}", "a writable path", "Choose another.") from None
    print(f"wrote {output}: {len(summary.cases)} cases")


if __name__ == "__main__":
    command_line.run(main)
