"""README.md of a model repository: its commands, its client, and the memory pool that it asks for."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tritonclient.http as triton

from fixtures.cases import Export
from fixtures.spec import Serving, Variant
from fixtures.triton.branches import served_branch
from fixtures.triton.readme import docker_line, pool_flag
from fixtures.triton.repository import write_repository
from meta_tests.branches import publish_stand_in, with_frame
from meta_tests.exports import MIDAS
from meta_tests.repositories import NAMES, SPEC, Place, new_place

MIB = 1024**2
PATIENCE_S = 60  # of a shell that takes milliseconds


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return new_place(tmp_path / "place", monkeypatch)


def test_readme_has_every_branch_and_the_command(place: Place) -> None:
    place.spec.write_text(SPEC + "serving: {gpus: [0, 3]}\n")
    repository = place.build("--fused")
    text = (place.out / "README.md").read_text()
    for name in NAMES:
        assert f"| `{name}` |" in text
    assert text.count("(synthetic)") == len(NAMES)
    (line,) = re.findall(r"```sh\n(docker run .*?)\n```", text, re.DOTALL)
    assert line == docker_line(repository)
    for gpu in (0, 3):
        assert pool_flag(repository, gpu) in line
        assert pool_flag(repository, gpu) == f"--cuda-memory-pool-byte-size={gpu}:{repository.cuda_memory_pool_bytes}"
    assert "nvcr.io/nvidia/tritonserver:24.08-py3" in line
    assert "`<branch>_fused`" in text


def test_repository_for_a_cpu_names_no_gpu(place: Place) -> None:
    repository = place.build("--device", "cpu")
    assert (repository.served_on, repository.gpus) == ("cpu", ())
    text = (place.out / "README.md").read_text()
    assert "--gpus" not in text
    assert "cuda-memory-pool" not in text


def test_readme_says_how_frames_are_fitted(place: Place) -> None:
    place.build()
    assert "No frame is resized or cropped: frames have the sizes" in (place.out / "README.md").read_text()
    shutil.rmtree(place.out)
    repository = place.build("--frame", "90x160")
    text = (place.out / "README.md").read_text()
    assert "- `midas_256`: squash, bicubic\n" in text
    assert repository.branches["midas_256"].resize == "squash, bicubic"


def test_docker_line_is_one_shell_command(place: Place) -> None:
    repository = place.build()
    line = docker_line(repository)
    ended = subprocess.run(
        ["bash", "-c", f'docker() {{ printf "%s\\n" "$@"; }}; {line}'],
        cwd=place.out,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    words = ended.stdout.splitlines()
    assert words[:2] == ["run", "--rm"]
    assert f"{place.out}:/models:ro" in words
    assert words[-2:] == ["--model-repository=/models", pool_flag(repository, 0)]


def test_client_in_the_readme_sends_what_its_branch_takes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[triton.InferInput]]] = []

    class Client:
        def __init__(self, url: str) -> None:
            assert url == "localhost:8000"

        def infer(self, name: str, inputs: list[triton.InferInput]) -> SimpleNamespace:
            asked.append((name, inputs))
            return SimpleNamespace(as_numpy=lambda output: np.zeros(shapes[output]))

    name, branch = next(iter(place.build().branches.items()))
    shapes = {output.name: output.shape for output in branch.outputs}
    (code,) = re.findall(r"```python\n(.*?)```", (place.out / "README.md").read_text(), re.DOTALL)
    monkeypatch.setattr(triton, "InferenceServerClient", Client)
    exec(compile(code, "README.md", "exec"), {})
    ((model, inputs),) = asked
    assert model == name
    sent = [(tensor.name(), tensor.datatype(), tuple(tensor.shape())) for tensor in inputs]
    assert sent == [(tensor.name, tensor.dtype, tensor.shape) for tensor in branch.inputs]


def large(branch: str, instances: int) -> Variant:
    serving = Serving(instances=instances)
    changes = {"name": branch, "branch": branch, "height": 512, "width": 512, "serving": serving}
    return with_frame(MIDAS.model_copy(update=changes), (1080, 1920))


def test_pool_holds_the_requests_in_flight_of_every_instance(place: Place) -> None:
    exports = [
        Export(large("one", 1), 1, "fp32", Serving()),
        Export(large("two", 3), 8, "fp32", Serving(instances=3)),
    ]
    branches = []
    for index, export in enumerate(exports):
        folder = place.folder / "onnx" / str(index)
        publish_stand_in(folder, export)
        branches.append(served_branch(export, folder))
    repository = write_repository(place.out, branches, "cuda")
    between = 1080 * 1920 * 3 + 4 * 3 * 512 * 512 + 4 * 512 * 512  # frame, planes, answer
    needed = 8 * between + 8 * 3 * 8 * between
    assert needed <= repository.cuda_memory_pool_bytes < needed + MIB
    assert repository.cuda_memory_pool_bytes % MIB == 0
    assert f"{repository.cuda_memory_pool_bytes // MIB} MiB" in (place.out / "README.md").read_text()


def test_pool_is_at_least_tritons_default(place: Place) -> None:
    assert place.build("--batch", "1").cuda_memory_pool_bytes == 64 * MIB
