"""tools/command_line.py: how a tool ends."""

from __future__ import annotations

from meta_tests.conftest import Ended
from meta_tests.runs import ended


def test_interrupted_tool_says_so_without_a_traceback() -> None:
    def main() -> int:
        raise KeyboardInterrupt

    assert ended(main) == Ended(130, "", "interrupted\n")
