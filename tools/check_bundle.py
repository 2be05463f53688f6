"""Check that every file which specs and the catalog name is there, whole, the expected one, and loads.

python -m tools.check_bundle --models-root DIR [--spec FILE] [--json]

Exit code 0: no problem. 1: problems; each names the path and what to put there. 2: bad input.
Digests are recorded in the lock file, bundle.lock.json in the models root, and compared with it from then on.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path, PurePosixPath

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fixtures import offline
from fixtures.bundle_check.catalog import load_catalog
from fixtures.bundle_check.check import Request, check_bundle
from fixtures.bundle_check.digests import LOCK, Lock
from fixtures.errors import InputError
from fixtures.records import ArtifactCheck, BundleCheck, DigestVerdict
from fixtures.sessions.setup import SPECS
from fixtures.spec import load_spec
from fixtures.standard_streams import write_json
from fixtures.subject import require_known
from fixtures.weights.bundle import Bundle
from tools import command_line

_BASELINE = SPECS / "bundle.yaml"
_WIDTH = 100  # columns, where the output is no terminal
_SHOWN = 12  # hexadecimal digits of a digest
_MIB = 1024**2
_EXPECTED: dict[DigestVerdict, str] = {
    "recorded": "recorded now",
    "unchanged": "as locked",
    "relocked": "locked anew",
    "changed": "CHANGED",
    "matches": "matches",
    "differs": "DIFFERS",
    "none": "–",
}


def main() -> int:
    """Parse the command line, check, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models-root", metavar="DIR", help="the checkpoints (default: DP_MODELS_ROOT)")
    parser.add_argument(
        "--spec",
        type=Path,
        action="append",
        help="spec whose weights have to load; may be repeated (default: the baseline)",
    )
    parser.add_argument("--catalog", type=Path, default=SPECS / "catalog", help="folder (default: specs/catalog)")
    parser.add_argument("--lock", type=Path, metavar="FILE", help=f"recorded digests (default: {LOCK} in the root)")
    parser.add_argument("--relock", action="store_true", help="accept files that differ from the lock, and record them")
    parser.add_argument("--reread", action="store_true", help="compute every digest, whatever the lock remembers")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    arguments = parser.parse_args()
    check = check_bundle(_request(arguments))
    if arguments.json:
        write_json(check.model_dump_json(indent=2) + "\n")
    else:
        _print(check)
    return 1 if check.problems else 0


def _request(arguments: argparse.Namespace) -> Request:
    """The request of the command line. Shuts the network of this process. Raises InputError."""
    bundle = Bundle.open(arguments.models_root)
    specs = [load_spec(path) for path in arguments.spec or [_BASELINE]]
    for spec in specs:
        require_known(spec)
    catalog = load_catalog(arguments.catalog)
    if arguments.lock and not os.access(arguments.lock.parent, os.W_OK | os.X_OK):
        rule = "a file in a folder that can be written"
        raise InputError(f"--lock {arguments.lock}", "folder=not writable", rule, "Choose another.")
    lock = Lock.open(arguments.lock or bundle.root / LOCK)
    offline.enter(bundle.root, offline=True)
    return Request(bundle, tuple(specs), catalog, load_spec(_BASELINE), lock, arguments.relock, arguments.reread)


def _print(check: BundleCheck) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    console.print(_table(check.artifacts))
    lines = [f"note: {note}" for note in check.notes] + [f"PROBLEM: {problem}" for problem in check.problems]
    for line in lines:  # not wrapped: people copy paths from here
        console.print(Text(line), soft_wrap=True)
    console.print(Text(_closing_line(check)), soft_wrap=True)


def _table(checks: Iterable[ArtifactCheck]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("artifact", "found", "MiB", "sha256", "expected", "loads"):
        table.add_column(heading, justify="right" if heading == "MiB" else "left", overflow="fold")

    def folder(check: ArtifactCheck) -> str:
        return str(PurePosixPath(check.path).parent)

    for name, group in groupby(sorted(checks, key=lambda check: (folder(check), check.path)), key=folder):
        table.add_row(Text(f"{name}/", style="bold"))
        for check in group:
            style = "red" if check.problems else ""
            table.add_row(*(Text(cell, style=style) for cell in _cells(check)))
    return table


def _cells(check: ArtifactCheck) -> tuple[str, ...]:
    absent = "optional" if check.optional and not check.problems else "NO"
    return (
        f"  {PurePosixPath(check.path).name}",
        "yes" if check.found else absent,
        "–" if check.size_bytes is None else f"{check.size_bytes / _MIB:.1f}",
        check.sha256[:_SHOWN] if check.sha256 else "–",
        _EXPECTED[check.digest],
        {"yes": "yes", "no": "NO", "not judged": "–"}[check.loads],
    )


def _closing_line(check: BundleCheck) -> str:
    count = len(check.problems)
    outcome = "all in order" if not count else "1 problem" if count == 1 else f"{count} problems"
    return (
        f"{check.models_root}: {outcome}; {len(check.artifacts)} artifacts, {check.total_bytes / _MIB:.0f} MiB, "
        f"{check.read_files} digests made, {check.seconds:.1f} s"
    )


if __name__ == "__main__":
    command_line.run(main)
