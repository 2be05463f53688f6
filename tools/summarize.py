"""Make summary.json from a benchmark JSON or from a results.jsonl alone.

python -m tools.summarize FILE [-o summary.json] [--bench pretriton] [--run-id NAME]

Unusable lines are counted by reason, in the summary and on standard error.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fixtures.errors import InputError
from fixtures.records import Summary
from fixtures.results.reading import summarize_file
from fixtures.results.run_folder import write_output
from fixtures.standard_streams import write_json
from tools import command_line


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
    _emit(summary, file, arguments.output)
    return 0


def _emit(summary: Summary, file: Path, output: Path | None) -> None:
    text = summary.model_dump_json(indent=2) + "\n"
    if output is None:
        write_json(text)
        return
    write_output(output, text, [file])
    print(f"wrote {output}: {len(summary.cases)} cases")


if __name__ == "__main__":
    command_line.run(main)
