"""A plug-in of pytest for sessions of export_tests: on a machine that seems to have a GPU, each check finds a problem.

Nothing is exported. `-p meta_tests.failing_gate`
"""

from __future__ import annotations

from unittest import mock

from fixtures.cases import Export
from fixtures.export.gate import GateError
from fixtures.records import Dtype, Provider


class FailingGate:
    """In the place of `Gate`."""

    graph_problems = ("the graph is wrong",)
    placement_problems = ("the placement is wrong",)
    target_problems = ("the target is wrong",)

    def __init__(self, export: Export, *_: object) -> None:
        self.export = export

    def parity_problems(self, provider: Provider, dtype: Dtype) -> list[str]:
        """One problem."""
        return [f"{dtype} on {provider} is wrong"]

    def publish(self) -> None:
        """Raises GateError."""
        raise GateError("something is wrong")

    def close(self) -> None:
        """Nothing was written."""


def _ignore(_session: object, _on_cuda: bool) -> None:
    """The session sets what the machine has."""


_IN_SESSION = "fixtures.sessions.export_session"
mock.patch(f"{_IN_SESSION}.Gate", FailingGate).start()
mock.patch(f"{_IN_SESSION}.ExportSession._on_cuda", property(lambda _session: True, _ignore), create=True).start()
