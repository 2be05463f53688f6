"""How every tool ends: 0 when it did its work, 1 when a gate failed, 2 with one message when the input was bad.

130 when the keyboard interrupted it, as the tools that start others return too.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Sequence

from fixtures.errors import InputError
from fixtures.spec import MAX_FRAME, Frame
from fixtures.standard_streams import escape_unencodable

# As a shell says of a program that the signal has ended.
_READER_HAS_ENDED = 128 + signal.SIGPIPE
_INTERRUPTED = 128 + signal.SIGINT


def run(main: Callable[[], int]) -> None:
    """Run a tool's main function and exit."""
    escape_unencodable()
    try:
        code = main()
        if sys.stdout is not None:
            sys.stdout.flush()
        sys.exit(code)
    except InputError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:  # `| head`; what is left in the buffer must not raise again
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(_READER_HAS_ENDED)


def parted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before `--`, and what stands after it, which is another program's."""
    words = list(arguments)
    place = words.index("--") if "--" in words else len(words)
    return words[:place], words[place + 1 :]


def frame_of(text: str) -> Frame:
    """The value of `--frame`. Raises InputError."""
    height, _, width = text.partition("x")
    if re.fullmatch(r"[0-9]{1,5}x[0-9]{1,5}", text) and all(
        1 <= int(length) <= MAX_FRAME for length in (height, width)
    ):
        return Frame(height=int(height), width=int(width))
    rule = f"height x width in pixels up to {MAX_FRAME}, such as 720x1280"
    raise InputError("--frame", f"value={text!r}", rule, "Write it so.")
