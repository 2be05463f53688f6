"""Choose the branches of a run to deploy: per role, within the budgets of a spec, with reasons.

python -m tools.choose_branches RUN [--spec SPEC] [-o choice.json]

RUN is a run's folder, its summary.json or results.jsonl, or a benchmark JSON. Budgets stand in a spec under `roles:`,
and what serves the branches under `serving:` and `target:`. Without --spec those of the spec that was measured hold.
Exit code 1: a role has no branch within its budget; the nearest miss is named. Without -o the choice goes to standard
output, and its reasons to standard error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from fixtures.decision import budgets_of_run, choose
from fixtures.decision.server import server_of_spec
from fixtures.errors import system_errors
from fixtures.records import Choice, RoleChoice
from fixtures.results.reading import read_run
from fixtures.results.run_folder import write_output
from fixtures.spec import load_spec
from fixtures.standard_streams import write_json
from tools import command_line


def main() -> int:
    """Parse the command line, choose, write, and print the reasons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or one of its files")
    parser.add_argument(
        "--spec", type=Path, help="spec with the budgets and the server (default: the one that was measured)"
    )
    parser.add_argument("-o", "--output", type=Path, help="choice.json to write (default: standard output)")
    arguments = parser.parse_args()
    with system_errors(str(arguments.run), "file", "a readable file", "Check the path."):
        summary = read_run(arguments.run)
    if arguments.spec is None:
        measured = summary.run.get("spec")
        choice = choose(summary, budgets_of_run(summary), measured if isinstance(measured, str) else None)
    else:
        spec = load_spec(arguments.spec)
        choice = choose(summary, spec.roles, spec.name, server_of_spec(spec, summary.environment))
    text = choice.model_dump_json(indent=2) + "\n"
    if arguments.output is None:
        write_json(text)
    else:
        write_output(arguments.output, text, [arguments.run, arguments.spec])
    for line in _in_words(choice):
        print(line, file=sys.stderr if arguments.output is None else sys.stdout)
    if arguments.output is not None:
        print(f"wrote {arguments.output}")
    return 0 if choice.feasible else 1


def _in_words(choice: Choice) -> Iterator[str]:
    for role in choice.roles:
        bounds = ", ".join(f"{key} {value}" for key, value in role.budget.items() if key != "keep")
        yield f"{role.role} ({bounds or 'no bounds'}):"
        yield from (f"  {line}" for line in _role_in_words(role))
    yield from (f"note: {note}" for note in choice.notes)


def _role_in_words(role: RoleChoice) -> Iterator[str]:
    for branch in role.branches:
        yield f"{branch.place}: {branch.reason}"
        if branch.references:
            rows = ", ".join(f"{row.runtime}: {row.ratio:.2f} ×" for row in branch.references)
            yield f"{branch.place}: for comparison, not on Triton: {rows}"
        if branch.served_reason:
            yield f"{branch.place}: served: {branch.served_reason}"
    if not role.branches:
        miss = role.nearest_miss
        nearest = f"nearest is {miss.case_id}: {miss.reason} ({miss.over_percent:.0f}% over)" if miss else ""
        yield f"no branch keeps the budget; {nearest or 'no row can be trusted or compared with it'}"
    bounds = [one.bound for one in role.rejected]
    if bounds:
        counted = ", ".join(f"{bounds.count(bound)} by {bound}" for bound in dict.fromkeys(bounds))
        yield f"rejected: {counted}"


if __name__ == "__main__":
    command_line.run(main)
