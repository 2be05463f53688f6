"""Stands in for pytest where only the command that starts it is under test: measures nothing, ends at once.

`install` copies this file into a folder as `pytest.py`; `python -m pytest`, started there, then runs it. Files of that
folder say what it does: `hang` keeps it running, `fails` makes its exit code 1, and the contents of `begun` and `ended`
become files of the run before and after. It appends how it was called to `calls`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_USAGE_ERROR = 4  # pytest's own exit code
_INTERRUPTED = 2  # likewise


def install(folder: Path, begun: Mapping[str, str], ended: Mapping[str, str]) -> None:
    """Make a folder a checkout in which `python -m pytest` is this file.

    Args:
        begun: name of a file of the run → its content while the stub runs.
        ended: the same for when it has ended.
    """
    (folder / "bench_tests").mkdir(parents=True)
    shutil.copy(__file__, folder / "pytest.py")
    for state, files in (("begun", begun), ("ended", ended)):
        (folder / state).mkdir()
        for name, content in files.items():
            (folder / state / name).write_text(content)


def calls_of(folder: Path) -> list[dict[str, Any]]:
    """Options, words and process of every call so far, in order."""
    path = folder / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> int:
    """Behave as the files beside this one say."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for option in ("--out", "--run-id", "--tag", "--spec", "--variants", "--models-root", "--device"):
        parser.add_argument(option)
    parser.add_argument("--benchmark-json", type=Path)
    for flag in ("--resume", "--benchmark-quiet"):
        parser.add_argument(flag, action="store_true")
    given, words = parser.parse_known_args()
    if any(word.startswith("--") for word in words):
        return _USAGE_ERROR
    run = Path(given.out) / given.run_id
    run.mkdir(parents=True, exist_ok=given.resume)
    with (here / "calls").open("a") as calls:
        call = {**vars(given), "benchmark_json": str(given.benchmark_json), "words": words, "pid": os.getpid()}
        calls.write(json.dumps(call) + "\n")
    try:
        shutil.copytree(here / "begun", run, dirs_exist_ok=True)
        while (here / "hang").exists():
            time.sleep(0.01)
    except KeyboardInterrupt:
        return _INTERRUPTED
    shutil.copytree(here / "ended", run, dirs_exist_ok=True)
    sys.stdout.write(f"measured {given.spec}\n")
    return int((here / "fails").exists())


if __name__ == "__main__":
    sys.exit(main())
