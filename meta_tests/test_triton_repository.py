"""A model repository is written whole or not at all, from published files alone, for a server of another user."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from fixtures.cases import Export, exports_of
from fixtures.errors import InputError
from fixtures.files import sha256_of
from fixtures.manifest import MANIFEST, enter, read_manifest
from fixtures.onnx_session import open_session
from fixtures.records import ParityRecord, PlacementRecord, Repository
from fixtures.spec import Serving, Variant, load_spec
from fixtures.triton.branches import ServedBranch, require_one_name_each, served_branch
from fixtures.triton.config import configs, read_config
from fixtures.triton.readme import docker_line, pool_flag
from fixtures.triton.repository import write_repository
from fixtures.triton.stored_repository import REPOSITORY, read_repository
from meta_tests.branches import publish_stand_in, recorded, with_frame
from meta_tests.conftest import HANGS_S, ROOT
from meta_tests.exports import MIDAS, RAFT
from tools import build_model_repository

SPEC = """\
schema_version: 1
name: served
dtype: fp32
runtimes: [triton]
variants:
  - {name: midas_small_256, family: midas, model: MiDaS_small, height: 256, width: 256, batches: [1, 8]}
  - {name: raft_small_128, family: raft, model: raft_small, height: 128, width: 160, branch: flow}
"""
NAMES = ["midas_256", "midas_256_b8", "flow"]
MIDAS_FILE = "midas/midas_small_256.onnx"
NAME_PARTS = (("preprocess_", ""), ("", "_onnx"), ("", "_fused"), ("", ""))
MIB = 1024**2
READABLE, ENTERABLE = 0o004, 0o005  # by others


@dataclass(frozen=True)
class Place:
    """A spec with its published files, and the tool in this process."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    @property
    def spec(self) -> Path:
        return self.folder / "spec.yaml"

    @property
    def onnx_dir(self) -> Path:
        return self.folder / "onnx"

    @property
    def out(self) -> Path:
        return self.folder / "repository"

    @property
    def exports(self) -> tuple[Export, ...]:
        return exports_of(load_spec(self.spec))

    @property
    def branches(self) -> list[ServedBranch]:
        return [served_branch(export, self.onnx_dir) for export in self.exports]

    def arguments(self, *arguments: str) -> list[str]:
        """A later argument replaces an earlier one."""
        return ["--spec", str(self.spec), "--onnx-dir", str(self.onnx_dir), "--out", str(self.out), *arguments]

    def build(self, *arguments: str) -> Repository:
        given = self.arguments(*arguments)
        self.monkeypatch.setattr(sys, "argv", ["build_model_repository", *given])
        assert build_model_repository.main() == 0
        return read_repository(Path(given[len(given) - given[::-1].index("--out")]))

    def refusal(self, *arguments: str) -> str:
        """The message of a build that is refused, and leaves nothing."""
        with pytest.raises(InputError) as caught:
            self.build(*arguments)
        self.assert_nothing_was_written()
        return str(caught.value)

    def assert_nothing_was_written(self) -> None:
        assert sorted(path.name for path in self.folder.iterdir()) == ["onnx", "spec.yaml"]

    def enter(self, name: str = MIDAS_FILE, **changes: Any) -> None:
        """Change what the manifest says of a file."""
        enter(self.onnx_dir, name, read_manifest(self.onnx_dir).files[name].model_copy(update=changes))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    place = Place(tmp_path / "place", monkeypatch)
    place.folder.mkdir()
    place.spec.write_text(SPEC)
    for export in place.exports:
        publish_stand_in(place.onnx_dir, export)
    return place


@pytest.fixture
def strict_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def files_of(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


# --- what is in it ---


def test_names_are_those_of_the_contract(place: Place) -> None:
    assert list(place.build("--fused").branches) == NAMES
    expected = {f"{role}{name}{end}" for name in NAMES for role, end in NAME_PARTS}
    assert {path.name for path in place.out.iterdir() if path.is_dir()} == expected


def test_a_folder_is_as_the_server_wants_it(place: Place) -> None:
    place.build()
    models = [("preprocess_", ""), ("", "_onnx")]
    expected = {f"{begin}{name}{end}/1/model.onnx" for name in NAMES for begin, end in models}
    expected |= {f"{begin}{name}{end}/config.pbtxt" for name in NAMES for begin, end in (*models, ("", ""))}
    assert set(files_of(place.out)) == expected | {REPOSITORY, "README.md"}
    for name in NAMES:  # a server refuses a model without a version, an ensemble, too
        assert (place.out / name / "1").is_dir()


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_configurations_are_those_of_the_branches(place: Place, device: str) -> None:
    place.build("--fused", "--device", device)
    for branch in place.branches:
        for name, config in configs(branch, "cuda" if device == "cuda" else "cpu", True).items():
            assert read_config((place.out / name / "config.pbtxt").read_text()) == config


def test_digests_are_true_and_of_every_file_that_is_served(place: Place) -> None:
    repository = place.build("--fused")
    served = {name: path for name, path in files_of(place.out).items() if name not in {REPOSITORY, "README.md"}}
    assert repository.files == {name: sha256_of(path) for name, path in served.items()}
    for name, branch in repository.branches.items():
        assert branch.sha256 == repository.files[f"{name}_onnx/1/model.onnx"]


def test_two_builds_are_the_same(place: Place) -> None:
    again = place.out.with_name("again")
    assert place.build("--fused") == place.build("--fused", "--out", str(again))
    contents = [{name: path.read_bytes() for name, path in files_of(out).items()} for out in (place.out, again)]
    assert contents[0] == contents[1]


def test_it_says_what_it_was_built_for(place: Place) -> None:
    place.spec.write_text(SPEC + 'target: {triton: "25.01"}\nserving: {gpus: [2, 0], instances: 2}\n')
    repository = place.build("--dtype", "tf32")
    assert (repository.triton, repository.served_on, repository.gpus) == ("25.01", "cuda", (0, 2))
    assert {branch.dtype for branch in repository.branches.values()} == {"tf32"}


def test_on_a_cpu_it_names_no_gpu(place: Place) -> None:
    repository = place.build("--device", "cpu")
    assert (repository.served_on, repository.gpus) == ("cpu", ())
    text = (place.out / "README.md").read_text()
    assert "--gpus" not in text
    assert "cuda-memory-pool" not in text


def test_frames_are_of_the_size_that_was_asked_for(place: Place) -> None:
    repository = place.build("--frame", "90x160", "--fused")
    shapes = {name: [one.shape for one in branch.inputs] for name, branch in repository.branches.items()}
    assert shapes == {
        "midas_256": [(1, 90, 160, 3)],
        "midas_256_b8": [(8, 90, 160, 3)],
        "flow": [(1, 90, 160, 3)] * 2,
    }
    frames = np.random.default_rng(0).integers(0, 256, (1, 90, 160, 3), dtype=np.uint8)
    session = open_session(place.out / "flow_fused" / "1" / "model.onnx", "cpu", "fp32")
    (answer,) = session.run(["OUTPUT__0"], {"INPUT0__0": frames, "INPUT1__0": frames[:, ::-1]})
    assert answer.shape == repository.branches["flow"].outputs[0].shape == (1, 2, 128, 160)


def test_only_the_batches_that_were_asked_for(place: Place) -> None:
    assert list(place.build("--batch", "1", "--batch", "1").branches) == ["midas_256", "flow"]


def test_the_tool_says_what_clients_send(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    repository = place.build()
    said = capsys.readouterr().out
    assert "midas_256_b8: INPUT__0 UINT8 [8, 256, 256, 3] -> OUTPUT__0 FLOAT [8, 256, 256]\n" in said
    assert "flow: INPUT0__0 UINT8 [1, 128, 160, 3], INPUT1__0 UINT8 [1, 128, 160, 3] -> OUTPUT__0 FLOAT" in said
    assert f"wrote {place.out}, for Triton 24.08 or newer." in said
    assert said.endswith(docker_line(repository) + "\n")


def test_weights_beside_a_file_come_along(place: Place) -> None:
    export = place.exports[0]
    publish_stand_in(place.onnx_dir, export, external=True)
    repository = place.build("--batch", "1", "--fused")
    data = place.out / "midas_256_onnx" / "1" / "midas_small_256.onnx.data"
    assert repository.files["midas_256_onnx/1/midas_small_256.onnx.data"] == sha256_of(data)
    frames = np.full((1, 256, 256, 3), 255, np.uint8)
    fused, preprocess, model = (
        open_session(place.out / name / "1" / "model.onnx", "cpu", "fp32")
        for name in ("midas_256_fused", "preprocess_midas_256", "midas_256_onnx")
    )
    (between,) = preprocess.run(None, {"INPUT__0": frames})
    (answer,), (at_once,) = model.run(None, {"input": between}), fused.run(None, {"INPUT__0": frames})
    np.testing.assert_array_equal(at_once, answer)


# --- README.md and the pool ---


def test_the_readme_names_every_branch_and_how_to_serve_it(place: Place) -> None:
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


def test_the_line_is_a_command(place: Place) -> None:
    """A shell reads it as one command."""
    repository = place.build()
    line = docker_line(repository)
    ended = subprocess.run(
        ["bash", "-c", f'docker() {{ printf "%s\\n" "$@"; }}; {line}'],
        cwd=place.out,
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        check=True,
    )
    words = ended.stdout.splitlines()
    assert words[:2] == ["run", "--rm"]
    assert f"{place.out}:/models:ro" in words
    assert words[-2:] == ["--model-repository=/models", pool_flag(repository, 0)]


def test_the_readmes_client_is_python(place: Place) -> None:
    place.build()
    (code,) = re.findall(r"```python\n(.*?)```", (place.out / "README.md").read_text(), re.DOTALL)
    compile(code, "README.md", "exec")


def large(branch: str, instances: int) -> Variant:
    serving = Serving(instances=instances)
    changes = {"name": branch, "branch": branch, "height": 512, "width": 512, "serving": serving}
    return with_frame(MIDAS.model_copy(update=changes), (1080, 1920))


def test_the_pool_holds_all_that_is_in_flight(place: Place) -> None:
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


def test_the_pool_is_never_smaller_than_tritons_own(place: Place) -> None:
    assert place.build("--batch", "1").cuda_memory_pool_bytes == 64 * MIB


# --- whole or not at all ---


def fail(*_arguments: Any, **_named: Any) -> None:
    raise RuntimeError("in the middle")


def full(*_arguments: Any, **_named: Any) -> None:
    raise OSError(28, "No space left on device")


def interrupted(*_arguments: Any, **_named: Any) -> None:
    raise KeyboardInterrupt


def other_file_system(*_arguments: Any, **_named: Any) -> None:
    raise OSError(18, "Invalid cross-device link")


@pytest.mark.parametrize("raised", [fail, interrupted], ids=["an error", "Ctrl-C"])
@pytest.mark.parametrize(
    ("owner", "name"),
    [(onnx.checker, "check_model"), (onnx, "save"), (os, "link"), (Path, "replace"), (Path, "write_text")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_failure_in_the_middle_leaves_nothing(
    place: Place, owner: Any, name: str, raised: Callable[..., None]
) -> None:
    calls: list[int] = []
    original = getattr(owner, name)

    def later(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == (1 if name == "replace" else 3):
            raised()
        return original(*arguments, **named)

    place.monkeypatch.setattr(owner, name, later)
    with pytest.raises(KeyboardInterrupt if raised is interrupted else RuntimeError):
        place.build()
    place.monkeypatch.undo()
    place.assert_nothing_was_written()


def test_a_graph_that_the_checker_refuses_leaves_nothing(place: Place) -> None:
    def broken(_branch: ServedBranch) -> onnx.ModelProto:
        model = onnx.load(place.onnx_dir / MIDAS_FILE)
        model.graph.node[0].input[0] = "nothing"
        return model

    place.monkeypatch.setattr("fixtures.triton.repository.preprocess_model", broken)
    with pytest.raises(onnx.checker.ValidationError):
        place.build()
    place.assert_nothing_was_written()


def test_a_full_disk_is_one_message_and_leaves_nothing(place: Place) -> None:
    place.monkeypatch.setattr(os, "link", other_file_system)
    place.monkeypatch.setattr(shutil, "copyfile", full)
    said = place.refusal()
    assert f"--out {place.out}: folder=No space left on device, expected a writable folder with room for" in said


def test_an_empty_folder_is_filled(place: Place) -> None:
    place.out.mkdir()
    assert list(place.build().branches) == NAMES


@pytest.mark.parametrize("occupied", ["folder", "file", "link", "dangling link"])
def test_what_is_there_is_never_written_over(place: Place, occupied: str) -> None:
    out = place.folder.parent / "out"
    if occupied == "folder":
        out.mkdir()
        (out / "somebodys").write_text("work")
    elif occupied == "file":
        out.write_text("work")
    elif occupied == "link":
        (place.folder.parent / "empty").mkdir()
        out.symlink_to(place.folder.parent / "empty")
    else:
        out.symlink_to("nowhere")
    before = sorted(place.folder.parent.rglob("*"))
    place.monkeypatch.setattr(onnx, "save", fail)  # nothing may come so far
    assert f"--out {out}: path=exists, expected a new or empty folder." in place.refusal("--out", str(out))
    assert sorted(place.folder.parent.rglob("*")) == before


def test_a_place_that_cannot_be_written_is_refused(place: Place) -> None:
    out = place.spec / "repository"
    place.monkeypatch.setattr(onnx, "save", fail)
    assert re.search(
        r"folder=(Not a directory|File exists), expected a writable folder", place.refusal("--out", str(out))
    )


# --- for a server of another user ---


def unreadable(out: Path) -> list[str]:
    """What others cannot read or, of folders, enter; `out` itself among it."""
    wanted = {path: ENTERABLE if path.is_dir() else READABLE for path in (out, *out.rglob("*"))}
    return [str(path.relative_to(out)) for path, mode in wanted.items() if path.stat().st_mode & mode != mode]


def test_others_can_read_all_of_it(place: Place) -> None:
    place.build("--fused")
    assert unreadable(place.out) == []


@pytest.mark.usefixtures("strict_umask")
def test_others_can_read_all_of_it_whatever_the_umask(place: Place) -> None:
    place.build("--fused")
    assert unreadable(place.out) == []


def test_a_private_source_is_copied_and_stays_private(place: Place) -> None:
    source = place.onnx_dir / MIDAS_FILE
    source.chmod(0o600)
    place.build()
    assert unreadable(place.out) == []
    assert source.stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("strict_umask")
def test_a_copy_from_another_file_system_is_readable_too(place: Place) -> None:
    for export in place.exports:
        (place.onnx_dir / export.file).chmod(0o644)
    place.monkeypatch.setattr(os, "link", other_file_system)
    place.build()
    copy = place.out / "midas_256_onnx" / "1" / "model.onnx"
    assert copy.read_bytes() == (place.onnx_dir / MIDAS_FILE).read_bytes()
    assert copy.stat().st_mode & READABLE


def test_a_file_is_linked_where_that_is_possible(place: Place) -> None:
    (place.onnx_dir / MIDAS_FILE).chmod(0o644)
    place.build()
    assert (place.out / "midas_256_onnx" / "1" / "model.onnx").samefile(place.onnx_dir / MIDAS_FILE)


def test_a_link_to_a_published_file_is_followed(place: Place) -> None:
    """A repository is mounted alone: what its links name is not there."""
    source = place.onnx_dir / MIDAS_FILE
    source.rename(source.with_name("stored"))
    source.symlink_to("stored")
    place.build()
    served = place.out / "midas_256_onnx" / "1" / "model.onnx"
    assert not served.is_symlink()
    assert sha256_of(served) == sha256_of(source)


# --- what is refused, by name ---


def no_manifest(place: Place) -> None:
    (place.onnx_dir / MANIFEST).unlink()


def no_entry(place: Place) -> None:
    path = place.onnx_dir / MANIFEST
    path.write_text(path.read_text().replace(MIDAS_FILE, "another.onnx"))


def no_file(place: Place) -> None:
    (place.onnx_dir / MIDAS_FILE).unlink()


def parity_failed(place: Place) -> None:
    place.enter(parity=(ParityRecord(provider="cuda", dtype="tf32", passed=False, inputs=()),))


def never_judged(place: Place) -> None:
    place.enter(parity=())


def placement_failed(place: Place) -> None:
    place.enter(placement=PlacementRecord(nodes={"CPUExecutionProvider": 1}, passed=False))


def one_byte_changed(place: Place) -> None:
    path = place.onnx_dir / MIDAS_FILE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def other_precision(place: Place) -> None:
    place.enter(precision="fp16")


def other_batch(place: Place) -> None:
    place.enter(batch=2)


def other_model(place: Place) -> None:
    place.enter(model="DPT_Large")


def other_size(place: Place) -> None:
    place.enter(height=384)


def opset_of_a_newer_release(place: Place) -> None:
    place.enter(opsets={"": 22})


def ir_version_of_a_newer_release(place: Place) -> None:
    place.enter(ir_version=11)


def no_normalization(place: Place) -> None:
    place.enter(normalization=None)


NEWER = "expected opset 21 and IR 10 at most, which Triton 24.08 to 24.11 loads. Export it again"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (no_manifest, f"{MIDAS_FILE}: entry in manifest.json=missing, expected a file that passed its gate. Export it"),
        (no_entry, f"{MIDAS_FILE}: entry in manifest.json=missing, expected a file that passed its gate. Export it"),
        (no_file, f"{MIDAS_FILE}: file=missing, expected an exported file. Export it"),
        (parity_failed, f"{MIDAS_FILE}: parity on cuda in tf32=failed in manifest.json, expected a file that passed"),
        (never_judged, f"{MIDAS_FILE}: parity=never judged in manifest.json, expected a file that passed its gate."),
        (placement_failed, f"{MIDAS_FILE}: placement=failed in manifest.json, expected a file that passed its gate."),
        (one_byte_changed, f"{MIDAS_FILE}: sha256=another, expected the "),
        (other_precision, f"precision of {MIDAS_FILE}=fp16, expected fp32, as the spec says. Export it again"),
        (other_batch, f"batch of {MIDAS_FILE}=2, expected 1, as the spec says. Export it again"),
        (other_model, f"model of {MIDAS_FILE}=DPT_Large, expected MiDaS_small, as the spec says. Export it again"),
        (other_size, f"height of {MIDAS_FILE}=384, expected 256, as the spec says. Export it again"),
        (opset_of_a_newer_release, f"opset=22, IR version=10, {NEWER}"),
        (ir_version_of_a_newer_release, f"opset=18, IR version=11, {NEWER}"),
        (no_normalization, f"normalization of {MIDAS_FILE}=missing, expected a manifest that says how frames are"),
    ],
    ids=lambda value: value.__name__.replace("_", " ") if callable(value) else "",
)
def test_a_file_that_cannot_be_vouched_for_is_refused(place: Place, spoil: Callable[[Place], None], says: str) -> None:
    spoil(place)
    said = place.refusal()
    assert said.startswith("branch midas_256: ")
    assert says in said


def test_a_newer_release_takes_what_an_older_one_refuses(place: Place) -> None:
    opset_of_a_newer_release(place)
    place.spec.write_text(SPEC + 'target: {triton: "25.03"}\n')
    assert place.build().triton == "25.03"


def test_a_file_for_a_newer_release_alone_is_served_by_that_one(place: Place) -> None:
    """A release that nobody names is the one that the file was gated for."""
    place.enter(opsets={"": 22}, triton="25.05")
    assert served_branch(place.exports[0], place.onnx_dir).triton == "25.05"
    with pytest.raises(InputError, match=r"branch midas_256: opset=22"):
        served_branch(place.exports[0], place.onnx_dir, "24.12")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--batch", "0"), "--batch: value=0, expected 1 to 4096. Write one that was exported."),
        (("--batch", "4097"), "--batch: value=4097, expected 1 to 4096."),
        (("--batch", "2"), "branch midas_256_b2: "),
        (("--dtype", "fp8"), "--dtype: value='fp8', expected one of fp32, tf32, fp16."),
        (("--dtype", ""), "--dtype: value='', expected one of fp32, tf32, fp16."),
        (("--dtype", "fp16"), f"branch midas_256: precision of {MIDAS_FILE}=fp32, expected fp16, as the spec says."),
        (("--device", "tpu"), "--device: value='tpu', expected cuda or cpu."),
        (("--spec", "nowhere.yaml"), "nowhere.yaml: "),
        (("--onnx-dir", "nowhere"), "branch midas_256: nowhere/midas/midas_small_256.onnx: file=missing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_arguments_are_refused(place: Place, arguments: tuple[str, ...], says: str) -> None:
    assert says in place.refusal(*arguments)


@pytest.mark.parametrize(
    "frame", ["720", "720x", "x720", "0x720", "720x-1", "720x1280x3", "720X1280", "7.2x5", "16385x1", "²x2", ""]
)
def test_a_frame_that_is_no_size_is_refused(place: Place, frame: str) -> None:
    said = place.refusal("--frame", frame)
    assert said.startswith(f"--frame: value={frame!r}, expected height x width in pixels up to 16384, such as 720x1280")


def test_a_frame_of_very_many_digits_is_refused(place: Place) -> None:
    assert place.refusal("--frame", f"{'9' * 5000}x1").startswith("--frame: value=")


# --- names ---

CLASHING = """\
schema_version: 1
name: clashing
dtype: fp32
runtimes: [triton]
variants:
  - {name: midas_small_64, family: midas, model: MiDaS_small, height: 64, width: 96}
  - {name: midas_hybrid_64, family: midas, model: DPT_Hybrid, height: 64, width: 96}
"""


def test_two_variants_of_one_name_are_refused_and_a_branch_mends_it(place: Place) -> None:
    place.spec.write_text(CLASHING)
    for export in place.exports:
        publish_stand_in(place.onnx_dir, export)
    assert place.refusal() == (
        "branch midas_64x96: model preprocess_midas_64x96=taken by midas_small_64 and midas_hybrid_64, "
        "expected a name for each. Give one of the variants a `branch:` of its own in the spec."
    )
    place.spec.write_text(CLASHING.replace("DPT_Hybrid,", "DPT_Hybrid, branch: hybrid,"))
    assert list(place.build().branches) == ["midas_64x96", "hybrid"]


@pytest.mark.parametrize("branch", ["preprocess_midas_64x96", "midas_64x96_onnx"])
def test_a_branch_that_is_named_like_another_ones_step_is_refused(branch: str) -> None:
    other = recorded(RAFT.model_copy(update={"branch": branch}))
    with pytest.raises(InputError, match=rf"branch {branch}: model {branch}=taken by midas_small_64 and raft_small"):
        require_one_name_each([recorded(), other], fused=False)


def test_the_name_of_a_fused_file_is_taken_only_where_there_is_one() -> None:
    branches = [recorded(), recorded(RAFT.model_copy(update={"branch": "midas_64x96_fused"}))]
    require_one_name_each(branches, fused=False)
    with pytest.raises(InputError, match="model midas_64x96_fused=taken by"):
        require_one_name_each(branches, fused=True)


def test_a_name_that_ends_like_a_batch_is_a_name(place: Place) -> None:
    first, second = recorded(batch=8), recorded(RAFT.model_copy(update={"branch": "midas_64x96_b8"}))
    assert first.name == second.name
    with pytest.raises(InputError, match="model preprocess_midas_64x96_b8=taken by"):
        require_one_name_each([first, second], fused=False)
    assert not place.out.exists()


LARGE = "  - {name: large, family: midas, model: DPT_Large, height: 384, width: 384, optional: true}\n"


def test_an_optional_variant_that_nobody_exported_is_skipped_by_name(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.spec.write_text(SPEC + LARGE)
    assert list(place.build().branches) == NAMES
    assert "skipped midas_384: optional, and not exported\n" in capsys.readouterr().out


def test_an_optional_variant_is_refused_like_any_other_once_it_is_there(place: Place) -> None:
    place.spec.write_text(SPEC + LARGE)
    export = place.exports[-1]
    publish_stand_in(place.onnx_dir, export)
    place.enter(export.file, parity=())
    assert place.refusal().startswith("branch midas_384: ")


def test_a_spec_of_which_nothing_was_exported_is_refused(place: Place) -> None:
    place.spec.write_text(SPEC[: SPEC.index("  - ")] + LARGE)
    assert "spec.yaml: branches=0, expected at least one exported variant. Export one first." in place.refusal()


# --- read back ---


@pytest.mark.parametrize("content", [b"", b"{}", b"null", b"\xff", b'{"schema_version": 2}'], ids=repr)
def test_a_folder_that_we_have_not_written_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match="folder=No such file or directory, expected a model repository"):
        read_repository(tmp_path)
    (tmp_path / REPOSITORY).write_bytes(content)
    with pytest.raises(InputError, match=r"repository\.json: content=unreadable, expected what the builder wrote"):
        read_repository(tmp_path)


# --- as a command ---


def command(place: Place, *arguments: str, program: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    started = [sys.executable, *(program or ("-m", "tools.build_model_repository")), *place.arguments(*arguments)]
    return subprocess.run(started, cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S, check=False)


def test_bad_input_is_one_message_and_exit_code_2(place: Place) -> None:
    one_byte_changed(place)
    ended = command(place)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(r"ERROR: branch midas_256: .*sha256=another, expected the .*\n", ended.stderr)
    place.assert_nothing_was_written()


WITHOUT = """\
import runpy, sys
for name in ("torch", "torchvision", "timm", "onnxruntime", "pytest", "cv2"):
    sys.modules[name] = None
sys.argv[0] = "build_model_repository"
runpy.run_module("tools.build_model_repository", run_name="__main__")
"""


def test_it_builds_where_nothing_but_onnx_is_installed(place: Place) -> None:
    ended = command(place, "--fused", program=("-c", WITHOUT))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert list(read_repository(place.out).branches) == NAMES


def test_the_same_program_fails_where_something_it_needs_is_missing(place: Place) -> None:
    """So that the test above can fail."""
    ended = command(place, program=("-c", WITHOUT.replace('"torch",', '"onnx",')))
    assert ended.returncode == 1
    assert "import of onnx halted" in ended.stderr
    place.assert_nothing_was_written()
