"""The gate of every file that a spec asks for. Publication comes last, and makes every check that was not selected."""

import pytest

from fixtures.cases import Export
from fixtures.export.gate import Gate, GateError
from fixtures.sessions.export_session import ExportSession, ParityCase


def test_graph(gate: Gate) -> None:
    """Fixed shapes, the contract's names and dtypes, versions that the target knows, a file that loads anywhere."""
    _require_none(gate.graph_problems)


def test_parity(parity_case: ParityCase, exports: ExportSession) -> None:
    """The same function as the float64 module, as closely as torch is in the same precision class."""
    gate = exports.gate(parity_case.export)
    _require_none(gate.parity_problems(parity_case.provider, parity_case.dtype))


@pytest.mark.on_cuda
def test_placement(gate: Gate) -> None:
    """Every node on the GPU, and no copies between host and device."""
    _require_none(gate.placement_problems)


@pytest.mark.on_target
def test_target(gate: Gate) -> None:
    """The ONNX Runtime of the target loads the file and gives the same answers."""
    _require_none(gate.target_problems)


def test_published(export: Export, gate: Gate, exports: ExportSession) -> None:
    """The file stands at its final path if every check passed; otherwise nothing changes there."""
    try:
        exports.published[export.file] = gate.publish()
    except GateError as error:
        pytest.fail(f"{export.file} is not published:\n{error}", pytrace=False)


def _require_none(problems: list[str]) -> None:
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)
