"""The gate of the preprocess files alone: finds a wrong resize without a model behind it, and without a server."""

import pytest

from fixtures.sessions.serve_session import ServeSession
from fixtures.triton.branches import ServedBranch


def test_preprocess(branch: ServedBranch, serving: ServeSession) -> None:
    """The preprocess file computes the tensors of the bench's module for photographs, noise, and the edges of UINT8."""
    if "preprocess" not in branch.models:
        pytest.skip(f"needs a preprocess file; clients of {branch.name} send the model's inputs")
    file = serving.repository / branch.models["preprocess"].name / "1" / "model.onnx"
    if problems := serving.gate(branch).preprocess_problems(file):
        pytest.fail("\n".join(problems), pytrace=False)
