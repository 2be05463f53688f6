"""Which test files share a worker: those that need the same expensive process or library."""

from __future__ import annotations

import re
from functools import cache

from xdist.scheduler import LoadFileScheduling

from meta_tests.conftest import ROOT

# Names by which a file shows that it forks sessions, asks a server or compiles. A fork server imports for 7 CPU
# seconds, a Triton server starts for 3, and Inductor imports for 2 (`python -X importtime`, `pytest --durations`); each
# worker that runs one of these files would have its own.
_NAMES = r"fork_server ForkedPython \w*Suite small_server installation compiled_once published_package"
_NEEDS = re.compile(rf"\b({_NAMES.replace(' ', '|')})\b")
_GROUP = "processes"


class Scheduling(LoadFileScheduling):  # type: ignore[misc]
    """A file's tests run in one worker, and so do all files that fork sessions, ask a server or compile."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return _GROUP if _needs_processes(file) else file


@cache
def _needs_processes(file: str) -> bool:
    return _NEEDS.search((ROOT / file).read_text(encoding="utf-8")) is not None
