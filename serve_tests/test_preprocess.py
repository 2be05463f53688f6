"""The gate of the preprocess files, on their own: a resize that differs is found here and not in a model's answers."""

import pytest

from fixtures.sessions.serve_session import ServeSession
from fixtures.triton.branches import ServedBranch

# A library that deprecates something says nothing about a file.
pytestmark = pytest.mark.filterwarnings("default")


def test_preprocess(branch: ServedBranch, serving: ServeSession) -> None:
    """The same tensors as the module that the bench runs, on photographs, noise and the edges of UINT8."""
    if "preprocess" not in branch.models:
        pytest.skip(f"needs frames, and clients of {branch.name} send what the model takes")
    file = serving.repository / branch.models["preprocess"].name / "1" / "model.onnx"
    if problems := serving.gate(branch).preprocess_problems(file):
        pytest.fail("\n".join(problems), pytrace=False)
