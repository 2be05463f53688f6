"""What is wrong with a bundle is named by path, with what to put there: all of it in one run, without a traceback."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from fixtures import offline
from fixtures.bundle_check.catalog import load_catalog
from fixtures.bundle_check.check import Request, check_bundle
from fixtures.bundle_check.digests import LOCK, Lock
from fixtures.files import sha256_of
from fixtures.modalities.text import DEFAULT_PROMPTS, read_prompts
from fixtures.records import ArtifactCheck, BundleCheck, BundleLock
from fixtures.spec import load_spec
from fixtures.synthetic.files import save_checkpoint, save_tokenizer
from fixtures.weights.bundle import SYNTHETIC_MARKER, Bundle
from meta_tests.conftest import HANGS_S, ROOT, environment
from meta_tests.test_catalog import INPROCESS
from tools import check_bundle as tool
from tools import command_line
from tools.make_bundle import make_bundle

RAFT = "torch_cache/hub/checkpoints/raft_small_C_T_V2-01064c6d.pth"
SQUEEZENET = "torch_cache/hub/checkpoints/squeezenet1_1-b8a52dc0.pth"
EXTRA, EXTRA_FOLDER = "visual/extra/model.pt", "hf_cache/hub/models--roberta-base"
SPEC = """\
schema_version: 1
name: small
dtype: fp32
runtimes: [torch]
variants:
  - {name: raft_small_128, family: raft, model: raft_small, height: 128, width: 128}
  - {name: squeezenet_64, family: torchvision, model: squeezenet1_1, height: 64, width: 64}
"""
CLAP = "  - {name: clap_text, family: clap, model: HTSAT-tiny, tower: text, tokens: 77, optional: true}\n"
CODE = "ran.txt"


def extra(name: str, *artifacts: tuple[str, str], digest: str = "auto") -> str:
    """A catalog entry for files that no variant loads."""
    head = INPROCESS[: INPROCESS.index("  - ")].replace("raft_small", name)
    lines = [f"  - {{kind: {kind}, path: {path}}}\n" for kind, path in artifacts]
    return head.replace("digest: auto", f"digest: {digest}") + "".join(lines)


@pytest.fixture(scope="session")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models root of 9 MB with everything that the small spec and the small catalog name."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "spec.yaml").write_text(SPEC)
    make_bundle(folder / "root", 0, specs=[folder / "spec.yaml"])
    save_tokenizer(folder / "root/hf_cache/hub", "roberta-base", read_prompts(DEFAULT_PROMPTS))
    save_checkpoint({"a.weight": torch.ones(3), "b": torch.ones(2)}, folder / "root" / EXTRA, "torchscript")
    return folder / "root"


class Place:
    """A copy of the small root with a spec and a catalog of its own."""

    def __init__(self, folder: Path, small_root: Path) -> None:
        self.folder = folder
        self.root = Path(shutil.copytree(small_root, folder / "root"))
        self.spec = folder / "spec.yaml"
        self.spec.write_text(SPEC + CLAP)
        self.enter("raft_small", ("file", RAFT))
        self.enter("extra", ("file", EXTRA), ("dir", EXTRA_FOLDER))
        self.arguments = ["--models-root", str(self.root), "--spec", str(self.spec), "--catalog", str(self.catalog)]

    @property
    def catalog(self) -> Path:
        return self.folder / "catalog"

    def enter(self, name: str, *artifacts: tuple[str, str], digest: str = "auto") -> None:
        (self.catalog / "vision").mkdir(parents=True, exist_ok=True)
        (self.catalog / "vision" / f"{name}.yaml").write_text(extra(name, *artifacts, digest=digest))

    def check(self, **options: Any) -> BundleCheck:
        spec, catalog = load_spec(self.spec), load_catalog(self.catalog)
        lock = Lock.open(self.root / LOCK)
        return check_bundle(replace(Request(Bundle(self.root), (spec,), catalog, spec, lock), **options))

    def without_tokenizers(self) -> None:
        """The other two that CLAP needs are not in the small root."""
        self.spec.write_text(SPEC)


@pytest.fixture
def place(tmp_path: Path, small_root: Path) -> Place:
    return Place(tmp_path, small_root)


def of(check: BundleCheck, path: str) -> ArtifactCheck:
    (found,) = [artifact for artifact in check.artifacts if artifact.path == path]
    return found


# --- in order ---


def test_a_whole_bundle_is_in_order(place: Place) -> None:
    check = place.check()
    assert check.problems == ()
    raft = of(check, RAFT)
    assert raft.named_by == ("raft_small_128", "vision/raft_small.yaml")
    assert (raft.found, raft.loads, raft.digest, raft.synthetic) == (True, "yes", "recorded", True)
    assert (raft.size_bytes, raft.sha256) == ((place.root / RAFT).stat().st_size, sha256_of(place.root / RAFT))
    own = of(check, EXTRA)
    assert (own.named_by, own.loads, own.synthetic) == (("vision/extra.yaml",), "yes", False)
    tokenizer = of(check, EXTRA_FOLDER)
    assert (tokenizer.kind, tokenizer.loads, tokenizer.sha256) == ("dir", "yes", None)
    assert tokenizer.size_bytes == sum(
        file.stat().st_size for file in (place.root / EXTRA_FOLDER).rglob("*") if file.is_file()
    )
    assert check.total_bytes == sum(artifact.size_bytes or 0 for artifact in check.artifacts)
    assert check.read_files == 3


def test_what_is_optional_may_be_absent_and_is_shown(place: Place) -> None:
    check = place.check()
    absent = of(check, "audio/laion_clap/clap_ckpt.pt")
    assert (absent.found, absent.optional, absent.problems) == (False, True, ())
    assert "audio/laion_clap/clap_ckpt.pt is absent, and optional" in check.notes


def test_what_one_of_several_variants_needs_is_not_optional(place: Place) -> None:
    """And it may have any of its official names, whoever asks first."""
    named = f"  - {{name: raft_named, family: raft, model: raft_small, height: 128, width: 128, weights: {RAFT}}}\n"
    place.spec.write_text(SPEC.replace("variants:\n", f"variants:\n{named.replace('}', ', optional: true}')}") + CLAP)
    (place.root / RAFT).rename(place.root / RAFT.replace("V2", "V1"))
    check = place.check()
    assert of(check, RAFT.replace("V2", "V1")).optional is False
    (problem,) = check.problems
    assert problem.startswith(f"{place.root / RAFT}: file=missing")
    (place.root / RAFT.replace("V2", "V1")).unlink()
    (problem,) = place.check().problems
    assert "for raft_named, raft_small_128, vision/raft_small.yaml." in problem


def test_what_is_optional_has_to_be_right_where_it_is(place: Place) -> None:
    path = place.root / "audio/laion_clap/clap_ckpt.pt"
    path.parent.mkdir()
    path.write_bytes(b"")
    (problem,) = place.check().problems
    assert problem.startswith(f"{path}: content=damaged (0 bytes)")


def test_another_official_name_counts_for_the_catalog_too(place: Place) -> None:
    other = "torch_cache/hub/checkpoints/raft_small_C_T_V1-ad48884c.pth"
    (place.root / RAFT).rename(place.root / other)
    check = place.check()
    assert check.problems == ()
    assert of(check, other).named_by == ("raft_small_128", "vision/raft_small.yaml")


def test_links_inside_the_root_are_followed(place: Place) -> None:
    """As the hub lays out its cache: snapshots lead to blobs."""
    folder = place.root / EXTRA_FOLDER
    before = of(place.check(), EXTRA_FOLDER).size_bytes
    (folder / "blobs").mkdir()
    for file in list((folder / "snapshots").glob("*/*.json")):
        file.rename(folder / "blobs" / file.name)
        file.symlink_to(Path("../../blobs") / file.name)
    (folder / "loop").symlink_to(folder)
    moved = place.root / "visual/elsewhere.pth"
    (place.root / RAFT).rename(moved)
    (place.root / RAFT).symlink_to(moved)
    check = place.check()
    assert check.problems == ()
    assert of(check, EXTRA_FOLDER).size_bytes == before


# --- broken ---


class _Code:
    def __reduce__(self) -> tuple[object, tuple[str, bytes]]:
        return Path.write_bytes, (Path(CODE), b"")  # type: ignore[return-value]


def _zero_bytes(path: Path) -> None:
    path.write_bytes(b"")


def _half(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def _another_models(path: Path) -> None:
    shutil.copy(path.with_name(Path(SQUEEZENET).name), path)


def _code(path: Path) -> None:
    path.write_bytes(pickle.dumps(_Code()))


def _code_in_a_zip(path: Path) -> None:
    torch.save({"weight": _Code()}, path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link_out(path: Path) -> None:
    path.rename(path.parents[4] / "outside.pth")
    path.symlink_to(path.parents[4] / "outside.pth")


def _link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nothing.pth")


def _link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


BROKEN: dict[Callable[[Path], None], str] = {
    Path.unlink: "file=missing, expected the official checkpoint. Put it there; nothing is downloaded.",
    _zero_bytes: "content=damaged (0 bytes), expected a whole checkpoint. Put the official file there.",
    _half: "content=damaged (",
    _another_models: "keys unknown, first 'features.0.weight', expected the 1",
    _code: "content=code or an unreadable pickle, expected a file with tensors only. Put the official file there.",
    _code_in_a_zip: "content=code or an unreadable pickle",
    _folder: "file=a folder, expected the official checkpoint.",
    _link_out: "outside.pth, expected a file inside ",
    _link_to_nothing: "file=a link that leads nowhere, expected the official checkpoint.",
    _link_to_itself: "file=Too many levels of symbolic links",
    _pipe: "file=neither a file nor a folder, expected the official checkpoint.",
}


@pytest.mark.parametrize("ruin", BROKEN, ids=lambda ruin: ruin.__name__.strip("_"))
def test_a_broken_checkpoint_is_named_with_what_belongs_there(
    place: Place, monkeypatch: pytest.MonkeyPatch, ruin: Callable[[Path], None]
) -> None:
    monkeypatch.chdir(place.folder)
    ruin(place.root / RAFT)
    check = place.check()
    (problem,) = check.problems
    assert problem.startswith(f"{place.root / RAFT}: ")
    assert BROKEN[ruin] in problem
    assert problem.endswith(
        "What belongs there: the official weights of raft's raft_small or another file "
        "torch_cache/hub/checkpoints/raft_small_*.pth, for raft_small_128, vision/raft_small.yaml."
    )
    found = of(check, RAFT)
    assert found.problems == (problem,)
    assert found.loads == ("no" if found.found else "not judged")
    assert found.digest == "none"
    assert not (place.folder / CODE).exists()
    assert RAFT not in Lock.open(place.root / LOCK).files


def _safetensors(path: Path, cut: int) -> None:
    content = safetensors.torch.save({"a": torch.ones(1000)})
    path.write_bytes(content[: len(content) - cut])


@pytest.mark.parametrize(
    ("name", "ruin", "says"),
    [
        ("model.pt", _half, "content=damaged ("),
        ("model.pt", _code, "content=code or an unreadable pickle"),
        ("model.safetensors", lambda path: _safetensors(path, 2000), "content=damaged ("),
        ("model.safetensors", lambda path: path.write_bytes(b"\xff" * 64), "content=damaged ("),
        (
            "model.safetensors",
            lambda path: path.write_bytes(b"\x0f" + bytes(7) + b'{"a":{"x":NaN}}'),
            "content=damaged (",
        ),
        ("model.bin", lambda path: path.write_bytes(b"text"), "content="),
        ("model.pth", lambda path: torch.save([1], path), "content=no state dict"),
    ],
)
def test_what_only_the_catalog_names_is_read_as_well(
    place: Place, name: str, ruin: Callable[[Path], None], says: str
) -> None:
    path = (place.root / EXTRA).with_name(name)
    if name != "model.pt":
        place.enter("more", ("file", path.relative_to(place.root).as_posix()))
    ruin(path)
    (problem,) = place.check().problems
    assert problem.startswith(f"{path}: {says}")
    assert "What belongs there: what " in problem


def test_a_file_of_another_kind_has_a_digest_and_is_not_judged(place: Place) -> None:
    (place.root / "visual/labels.txt").write_text("cat\n")
    _safetensors(place.root / "visual/whole.safetensors", 0)
    place.enter("labels", ("file", "visual/labels.txt"), ("file", "visual/whole.safetensors"))
    check = place.check()
    assert check.problems == ()
    labels = of(check, "visual/labels.txt")
    assert (labels.loads, labels.digest) == ("not judged", "recorded")
    assert of(check, "visual/whole.safetensors").loads == "yes"


def test_a_wrong_digest_names_both(place: Place) -> None:
    wanted = "0123456789abcdef" * 4
    place.enter("raft_small", ("file", RAFT), ("file", EXTRA), digest=wanted)
    check = place.check()
    (problem,) = check.problems
    found = of(check, RAFT)
    assert found.sha256 == sha256_of(place.root / RAFT)
    assert (
        f"sha256={found.sha256[:12]}…, expected 0123456789ab…, as the catalog's vision/raft_small.yaml says" in problem
    )
    assert (found.digest, found.expected_sha256, found.loads) == ("differs", wanted, "yes")
    assert of(check, EXTRA).digest == "recorded"
    place.enter("raft_small", ("file", RAFT), digest=found.sha256)
    assert of(place.check(), RAFT).digest == "matches"


@pytest.mark.parametrize("where", ["stat", "open"])
def test_no_permission_is_said(place: Place, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """As the system refuses it: root may do everything."""
    refuse = getattr(Path, where)

    def refusing(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == Path(RAFT).name:
            raise PermissionError(13, "Permission denied")
        return refuse(path, *arguments, **options)

    monkeypatch.setattr(Path, where, refusing)
    (problem,) = place.check().problems
    assert problem.startswith(f"{place.root / RAFT}: file=Permission denied, expected ")
    assert "Check its" in problem


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission_is_said_by_the_system_too(place: Place) -> None:
    (place.root / RAFT).chmod(0)
    assert all(": file=Permission denied, " in problem for problem in place.check().problems)
    (place.root / RAFT).parent.chmod(0)
    assert all(": file=Permission denied, " in problem for problem in place.check().problems)
    (place.root / RAFT).parent.chmod(0o700)


def test_a_name_that_is_no_utf_8_is_escaped(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch cannot open a file of such a name, and the message can be printed."""
    other = Path(os.fsdecode(os.fsencode(place.root / RAFT).replace(b"C_T_V2", b"\xff\x1b[31m")))
    (place.root / RAFT).rename(other)
    check = place.check()
    (problem,) = check.problems
    named = "raft_small_\\udcff\\x1b[31m-01064c6d.pth"
    assert problem.startswith(f"{place.root / RAFT.rpartition('/')[0]}/{named}: content=damaged ('utf-8' codec can't")
    assert BundleCheck.model_validate_json(check.model_dump_json()) == check
    assert [artifact.path.rpartition("/")[2] for artifact in check.artifacts if artifact.problems] == [named]


def test_everything_that_is_wrong_is_in_one_run(place: Place) -> None:
    (place.root / RAFT).unlink()
    _half(place.root / SQUEEZENET)
    _folder(place.root / EXTRA)
    shutil.rmtree(place.root / EXTRA_FOLDER / "refs")
    shutil.rmtree(place.root / EXTRA_FOLDER / "snapshots")
    (place.root / SYNTHETIC_MARKER).write_text("{")
    check = place.check()
    named = {problem.split(": ")[0] for problem in check.problems}
    wrong = {place.root / path for path in (RAFT, SQUEEZENET, EXTRA, EXTRA_FOLDER, SYNTHETIC_MARKER)}
    assert named == {str(path) for path in wrong}


@pytest.mark.parametrize("content", ["", "{", '{"files": NaN}', None])
def test_a_broken_marker_is_a_problem_and_hides_none(place: Place, content: str | None) -> None:
    marker = place.root / SYNTHETIC_MARKER
    if content is None:
        _pipe(marker)
    else:
        marker.write_text(content)
    check = place.check()
    assert check.problems == (
        f"{marker}: content=unreadable, expected what tools.make_bundle wrote. Make the bundle again.",
    )
    assert of(check, RAFT).loads == "yes"


# --- tokenizers and folders ---


def _snapshot(place: Place) -> Path:
    (snapshot,) = (place.root / EXTRA_FOLDER / "snapshots").iterdir()
    return snapshot


def _vocabulary_missing(place: Place) -> None:
    (_snapshot(place) / "tokenizer.json").unlink()


def _vocabulary_cut(place: Place) -> None:
    _half(_snapshot(place) / "tokenizer.json")


def _snapshots_missing(place: Place) -> None:
    shutil.rmtree(place.root / EXTRA_FOLDER / "snapshots")


def _reference_of_bytes(place: Place) -> None:
    (place.root / EXTRA_FOLDER / "refs/main").write_bytes(b"\xff\xfe")


def _reference_out(place: Place) -> None:
    (place.root / EXTRA_FOLDER / "refs/main").write_text("/etc")


def _file_in_its_place(place: Place) -> None:
    shutil.rmtree(place.root / EXTRA_FOLDER)
    (place.root / EXTRA_FOLDER).write_text("")


def _empty_folder(place: Place) -> None:
    shutil.rmtree(place.root / EXTRA_FOLDER)
    (place.root / EXTRA_FOLDER).mkdir()


def _vocabulary_out(place: Place) -> None:
    file = _snapshot(place) / "tokenizer.json"
    file.rename(place.folder / "outside.json")
    file.symlink_to(place.folder / "outside.json")


def _blob_missing(place: Place) -> None:
    file = _snapshot(place) / "tokenizer.json"
    file.unlink()
    file.symlink_to("../../blobs/abc")


def _vocabulary_a_pipe(place: Place) -> None:
    _pipe(_snapshot(place) / "tokenizer.json")


FOLDERS: dict[Callable[[Place], None], str] = {
    _vocabulary_missing: "tokenizer=unusable (",
    _vocabulary_cut: "tokenizer=unusable (",
    _snapshots_missing: "expected one of the snapshots. Copy the hub's cache whole.",
    _reference_of_bytes: "refs/main: revision=",
    _reference_out: "expected one of 0000000000000000000000000000000000000000. Copy the hub's cache whole.",
    _file_in_its_place: "folder=a file, expected a folder. Put it there; nothing is downloaded.",
    _empty_folder: "files=none, expected its files. Put them there.",
    _vocabulary_out: "outside.json, expected a file inside ",
    _blob_missing: "link=../../blobs/abc, which is not there, expected a whole folder. Copy the whole folder",
    _vocabulary_a_pipe: "file=neither a file nor a folder, expected a whole folder.",
}


@pytest.mark.parametrize("ruin", FOLDERS, ids=lambda ruin: ruin.__name__.strip("_"))
def test_a_broken_tokenizer_is_named(place: Place, ruin: Callable[[Place], None]) -> None:
    ruin(place)
    check = place.check()
    (problem,) = check.problems
    assert problem.startswith(str(place.root / EXTRA_FOLDER))
    assert FOLDERS[ruin] in problem
    assert "What belongs there: the Hugging Face hub's cache of the tokenizer roberta-base, for clap_text, " in problem
    assert of(check, EXTRA_FOLDER).loads != "yes"


def test_tokenizers_that_are_missing_are_named(place: Place) -> None:
    place.spec.write_text(SPEC + CLAP.replace(", optional: true", ""))
    missing = [problem.split(": ")[:2] for problem in place.check().problems]
    assert missing == [
        [
            str(place.root / "audio/laion_clap/clap_ckpt.pt"),
            "file=missing, expected the official checkpoint. Put it there; nothing is downloaded. What belongs there",
        ],
        [
            str(place.root / "hf_cache/hub/models--bert-base-uncased"),
            "folder=missing, expected a folder. Put it there; nothing is downloaded. What belongs there",
        ],
        [
            str(place.root / "hf_cache/hub/models--facebook--bart-base"),
            "folder=missing, expected a folder. Put it there; nothing is downloaded. What belongs there",
        ],
    ]


def test_a_tokenizer_under_its_newer_name_is_found(place: Place) -> None:
    other = "hf_cache/models--FacebookAI--roberta-base"
    (place.root / EXTRA_FOLDER).rename(place.root / other)
    check = place.check()
    assert check.problems == ()
    assert of(check, other).loads == "yes"


def test_code_beside_a_tokenizer_never_runs(place: Place) -> None:
    configuration = _snapshot(place) / "tokenizer_config.json"
    data = json.loads(configuration.read_text()) | {"auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    configuration.write_text(json.dumps(data))
    ran = place.folder / CODE
    configuration.with_name("own.py").write_text(f"open({str(ran)!r}, 'w')\nclass Own: pass\n")
    command = [sys.executable, "-m", "tools.check_bundle", *place.arguments, "--json"]
    unset = environment() | {"HF_MODULES_CACHE": str(place.folder / "modules")}
    ended = subprocess.run(
        command, cwd=ROOT, env=unset, input="y\n", capture_output=True, text=True, timeout=HANGS_S, check=False
    )
    assert not ran.exists()
    assert BundleCheck.model_validate_json(ended.stdout).problems == (), "nor is anybody asked whether it may"


# --- the lock ---


def test_a_change_is_seen_until_it_is_meant(place: Place) -> None:
    assert of(place.check(), RAFT).digest == "recorded"
    before = BundleLock.model_validate_json((place.root / LOCK).read_bytes())
    assert set(before.files) == {RAFT, SQUEEZENET, EXTRA}
    again = place.check()
    assert (again.read_files, of(again, RAFT).digest) == (0, "unchanged")
    state_dict = torch.load(place.root / RAFT, weights_only=True)
    torch.save({key: value + 1 for key, value in state_dict.items()}, place.root / RAFT)
    for _ in range(2):
        check = place.check()
        (problem,) = check.problems
        assert f"changed since it was locked on {before.files[RAFT].locked_on}, expected" in problem
        assert "Put that file back; if the change is meant, run with --relock." in problem
        assert (check.read_files, of(check, RAFT).digest) == (1, "changed")
        assert of(check, RAFT).expected_sha256 == before.files[RAFT].sha256
    check = place.check(relock=True)
    assert (check.problems, of(check, RAFT).digest) == ((), "relocked")
    again = place.check()
    assert (again.problems, again.read_files, of(again, RAFT).digest) == ((), 0, "unchanged")


def test_a_change_behind_an_old_time_stamp_is_seen_when_all_is_read(place: Place) -> None:
    place.check()
    facts = (place.root / EXTRA).stat()
    with (place.root / EXTRA).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    os.utime(place.root / EXTRA, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert of(place.check(), EXTRA).digest == "unchanged"
    check = place.check(reread=True)
    assert (check.read_files, of(check, EXTRA).digest) == (3, "changed")


def test_what_is_wrong_is_never_locked(place: Place) -> None:
    _another_models(place.root / RAFT)
    assert place.check(relock=True).problems
    assert set(Lock.open(place.root / LOCK).files) == {SQUEEZENET, EXTRA}


# --- the tool ---


@pytest.fixture
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tool shuts the network of its process, and says so in the environment."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    yield
    offline.open_network()


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["check_bundle", *arguments])
    return tool.main()


@pytest.mark.usefixtures("_environment")
def test_the_table_says_it_in_100_columns(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place.without_tokenizers()
    assert run(monkeypatch, *place.arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:-1])) <= 100
    digest = sha256_of(place.root / RAFT)[:12]
    (row,) = [line.split() for line in lines if "raft_small_C" in line]
    assert row == ["raft_small_C_T_V2-01064c6d.pth", "yes", "3.8", digest, "recorded", "now", "yes"]
    assert "note: 2 files are synthetic: what is computed from them means nothing" in lines
    assert lines[-1].startswith(f"{place.root}: all in order; 4 artifacts, ")
    assert "MiB, 3 digests made, " in lines[-1]
    assert os.environ["HF_HUB_OFFLINE"] == "1"

    _half(place.root / RAFT)
    (place.root / SQUEEZENET).unlink()
    assert run(monkeypatch, *place.arguments) == 1
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line.split() for line in lines if "raft_small_C" in line and "PROBLEM" not in line]
    assert row[-2:] == ["CHANGED", "NO"]
    problems = [line for line in lines if line.startswith("PROBLEM: ")]
    assert len(problems) == 3
    assert problems[0].startswith(f"PROBLEM: {place.root / RAFT}: content=damaged")
    assert problems[1].startswith(f"PROBLEM: {place.root / RAFT}: sha256=")
    assert problems[2].startswith(f"PROBLEM: {place.root / SQUEEZENET}: file=missing")
    assert ": 3 problems; 4 artifacts, " in lines[-1]


def test_json_is_one_document_and_nothing_else(place: Place) -> None:
    place.spec.write_text(SPEC)
    (place.root / RAFT).unlink()
    command = [sys.executable, "-m", "tools.check_bundle", *place.arguments, "--json"]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=HANGS_S, check=False
    )
    assert ended.returncode == 1, ended.stderr
    check = BundleCheck.model_validate_json(ended.stdout)
    assert check.models_root == str(place.root)
    assert check.lock == str(place.root / LOCK)
    assert [artifact.path for artifact in check.artifacts if artifact.problems] == [RAFT]
    assert ended.stderr == ""


@pytest.mark.usefixtures("_environment")
def test_the_lock_may_lie_elsewhere(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = place.folder / "own.json"
    assert run(monkeypatch, *place.arguments, "--lock", str(elsewhere)) == 0
    assert RAFT in BundleLock.model_validate_json(elsewhere.read_bytes()).files
    assert not (place.root / LOCK).exists()


@pytest.mark.usefixtures("_environment")
def test_a_root_that_cannot_be_written_is_no_failure(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("fixtures.bundle_check.digests.write_atomically", refuse)
    assert run(monkeypatch, *place.arguments) == 0
    said = f"note: {place.root / LOCK}: digests are not recorded (Read-only file system); name a file elsewhere with"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--models-root", "/nowhere"], "--models-root: value=/nowhere, expected a folder that exists"),
        (["--spec", "absent.yaml"], "absent.yaml: file=No such file"),
        (["--catalog", "absent"], "absent: entries=0"),
        (["--lock", "absent/lock.json"], "--lock absent/lock.json: folder=not writable"),
        (["--lock", "README.md"], "README.md: content=damaged"),
    ],
)
def test_bad_input_ends_with_one_message(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: list[str], says: str
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["check_bundle", *place.arguments, *change])
    with pytest.raises(SystemExit) as ended:
        command_line.run(tool.main)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("ERROR: ")
    assert says in printed.err
    assert printed.out == ""
