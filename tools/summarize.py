"""Make summary.json from a benchmark JSON or from a results.jsonl alone.

python -m tools.summarize FILE [-o summary.json] [--bench pretriton]

What was unusable in the file is counted and named, in the summary and on standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fixtures.errors import InputError
from fixtures.records import CaseFacts, CaseSummary, Summary
from fixtures.results import write_atomically
from fixtures.rows import CaseResult, read_results
from fixtures.summary import summarize
from tools import command_line


def main() -> int:
    """Parse the command line, summarize, write or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, help="benchmark JSON or results.jsonl")
    parser.add_argument("--in", dest="file_option", type=Path, metavar="FILE", help="the same, as an option")
    parser.add_argument("-o", "--output", type=Path, help="summary.json to write (default: standard output)")
    parser.add_argument("--bench", default="pretriton", help="rows of this bench only (default: pretriton)")
    arguments = parser.parse_args()
    file = arguments.file or arguments.file_option
    if file is None or (arguments.file and arguments.file_option):
        raise InputError("summarize", "FILE=none or two", "one file", "Name a benchmark JSON or a results.jsonl.")
    summary = summarize_file(file, arguments.bench)
    for reason, count in summary.unusable.items():
        print(f"{file}: unusable: {count} x {reason}", file=sys.stderr)
    _emit(summary, arguments.output)
    return 0


def summarize_file(file: Path, bench: str = "pretriton") -> Summary:
    """The summary of a benchmark JSON or a results.jsonl. Raises InputError when nothing in it is usable."""
    try:
        text = file.read_text(errors="replace")
    except OSError as error:
        raise InputError(str(file), f"file={error.strerror}", "a readable file", "Check the path.") from None
    document = _benchmark_document(text)
    summary = _from_rows(text, bench) if document is None else _from_benchmarks(document)
    if not summary.cases:
        found = "; ".join(f"{count} x {reason}" for reason, count in summary.unusable.items()) or "nothing"
        raise InputError(str(file), f"usable cases=0 ({found})", "rows of this suite", "Name another file.")
    return summary


def _benchmark_document(text: str) -> dict[str, Any] | None:
    try:
        document = json.loads(text)
    except ValueError:
        return None
    return document if isinstance(document, dict) and isinstance(document.get("benchmarks"), list) else None


def _from_rows(text: str, bench: str) -> Summary:
    reading = read_results(text.splitlines(), bench)
    notes = [f"{case_id} was cut short: {how}" for case_id, how in reading.cut_short.items()]
    # Rows cannot tell which cases are missing, so such a summary never calls itself complete.
    notes.append("made from rows alone")
    return summarize(
        reading.results,
        run_id=reading.run_id,
        complete=False,
        environment=reading.device_profile,
        unusable=dict(reading.unusable),
        notes=tuple(notes),
    )


def _from_benchmarks(document: dict[str, Any]) -> Summary:
    run = document.get("pretriton")
    run = run if isinstance(run, dict) else {}
    results, unusable = [], dict[str, int]()
    for entry in document["benchmarks"]:
        result = _result_of(entry)
        if result is None:
            reason = "benchmark without a case of this suite"
            unusable[reason] = unusable.get(reason, 0) + 1
        else:
            results.append(result)
    results.extend(CaseResult(_facts(untimed)) for untimed in run.get("cases_without_timing", ()))
    return summarize(
        results,
        run_id=run.get("run_id"),
        complete=bool(run.get("complete", False)),
        environment=run.get("environment", {}),
        run=run.get("run", {}),
        unusable=unusable,
    )


def _result_of(entry: Any) -> CaseResult | None:
    try:
        rounds_ms = tuple(float(seconds) * 1e3 for seconds in entry["stats"]["data"])
        return CaseResult(_facts(entry["extra_info"]["case"]), rounds_ms) if rounds_ms else None
    except (KeyError, TypeError, ValueError, ValidationError):
        return None


def _facts(case: dict[str, Any]) -> CaseFacts:
    own_fields = set(CaseSummary.model_fields) - set(CaseFacts.model_fields)
    return CaseFacts.model_validate({key: value for key, value in case.items() if key not in own_fields})


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
