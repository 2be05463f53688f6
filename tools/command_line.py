"""How every tool ends: 0 when it did its work, 1 when a gate failed, 2 with one message when the input was bad."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from fixtures.errors import InputError


def run(main: Callable[[], int]) -> None:
    """Run a tool's main function and exit."""
    try:
        sys.exit(main())
    except InputError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        sys.exit(2)


def parted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before `--`, and what stands after it, which is another program's."""
    words = list(arguments)
    place = words.index("--") if "--" in words else len(words)
    return words[:place], words[place + 1 :]
