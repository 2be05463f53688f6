"""The check of a models root: which problems it finds, which digests it records, and that nothing in a file runs."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from fixtures.bundle_check.digests import LOCK, Lock
from fixtures.files import sha256_of
from fixtures.records import BundleCheck, BundleLock
from fixtures.weights.bundle import SYNTHETIC_MARKER
from meta_tests.models_root import CLAP, EXTRA, RAFT, SPEC, SQUEEZENET, TOKENIZER, ModelsRoot, folder, half, of, pipe

CODE = "ran.txt"


@pytest.fixture
def place(tmp_path: Path) -> ModelsRoot:
    return ModelsRoot(tmp_path)


# --- in order ---


def test_whole_bundle_has_no_problem(place: ModelsRoot) -> None:
    check = place.check()
    assert check.problems == ()
    raft = of(check, RAFT)
    assert raft.named_by == ("raft_small_128", "vision/raft_small.yaml")
    assert (raft.found, raft.loads, raft.digest, raft.synthetic) == (True, "yes", "recorded", True)
    assert (raft.size_bytes, raft.sha256) == ((place.root / RAFT).stat().st_size, sha256_of(place.root / RAFT))
    own = of(check, EXTRA)
    assert (own.named_by, own.loads, own.synthetic) == (("vision/extra.yaml",), "yes", False)
    tokenizer = of(check, TOKENIZER)
    assert (tokenizer.kind, tokenizer.loads, tokenizer.sha256) == ("dir", "yes", None)
    assert tokenizer.size_bytes == sum(
        file.stat().st_size for file in (place.root / TOKENIZER).rglob("*") if file.is_file()
    )
    assert check.total_bytes == sum(artifact.size_bytes or 0 for artifact in check.artifacts)
    assert check.read_files == 3


def test_absent_optional_file_is_a_note(place: ModelsRoot) -> None:
    check = place.check()
    absent = of(check, "audio/laion_clap/clap_ckpt.pt")
    assert (absent.found, absent.optional, absent.problems) == (False, True, ())
    assert "audio/laion_clap/clap_ckpt.pt is absent, and optional" in check.notes


def test_file_that_one_of_several_variants_requires_is_not_optional(place: ModelsRoot) -> None:
    """It may have any of its official names, whichever variant comes first."""
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


def test_optional_file_that_is_there_has_to_be_right(place: ModelsRoot) -> None:
    path = place.root / "audio/laion_clap/clap_ckpt.pt"
    path.parent.mkdir()
    path.write_bytes(b"")
    (problem,) = place.check().problems
    assert problem.startswith(f"{path}: content=damaged (0 bytes)")


def test_other_official_name_counts_for_the_catalog_too(place: ModelsRoot) -> None:
    other = "torch_cache/hub/checkpoints/raft_small_C_T_V1-ad48884c.pth"
    (place.root / RAFT).rename(place.root / other)
    check = place.check()
    assert check.problems == ()
    assert of(check, other).named_by == ("raft_small_128", "vision/raft_small.yaml")


# --- broken ---


class _Code:
    def __reduce__(self) -> tuple[object, tuple[str, bytes]]:
        return Path.write_bytes, (Path(CODE), b"")  # type: ignore[return-value]


def _zero_bytes(path: Path) -> None:
    path.write_bytes(b"")


def _another_models(path: Path) -> None:
    shutil.copy(path.with_name(Path(SQUEEZENET).name), path)


def _code(path: Path) -> None:
    path.write_bytes(pickle.dumps(_Code()))


def _code_in_a_zip(path: Path) -> None:
    torch.save({"weight": _Code()}, path)


def _link_out(path: Path) -> None:
    path.rename(path.parents[4] / "outside.pth")
    path.symlink_to(path.parents[4] / "outside.pth")


def _link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nothing.pth")


def _link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


BROKEN: dict[Callable[[Path], None], str] = {
    Path.unlink: "file=missing, expected the official checkpoint. Put it there; nothing is downloaded.",
    _zero_bytes: "content=damaged (0 bytes), expected a whole checkpoint. Put the official file there.",
    half: "content=damaged (",
    _another_models: "keys unknown, first 'features.0.weight', expected the 1",
    _code: "which may run code, expected tensors by name, beside them plain values. Where its code is at hand",
    _code_in_a_zip: "content=a pickle with ",
    folder: "file=a folder, expected the official checkpoint.",
    _link_out: "outside.pth, expected a file inside ",
    _link_to_nothing: "file=a link that leads nowhere, expected the official checkpoint.",
    _link_to_itself: "file=Too many levels of symbolic links",
    pipe: "file=neither a file nor a folder, expected the official checkpoint.",
}


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__.strip("_"))
def test_broken_checkpoint_is_named_with_what_belongs_there(
    place: ModelsRoot, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    monkeypatch.chdir(place.folder)
    damage(place.root / RAFT)
    check = place.check()
    (problem,) = check.problems
    assert problem.startswith(f"{place.root / RAFT}: ")
    assert BROKEN[damage] in problem
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
    ("name", "damage", "says"),
    [
        ("model.pt", half, "content=damaged ("),
        ("model.pt", _code, "content=a pickle with "),
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
def test_checkpoint_that_only_the_catalog_names_is_read(
    place: ModelsRoot, name: str, damage: Callable[[Path], None], says: str
) -> None:
    path = (place.root / EXTRA).with_name(name)
    if name != "model.pt":
        place.enter("more", ("file", path.relative_to(place.root).as_posix()))
    damage(path)
    (problem,) = place.check().problems
    assert problem.startswith(f"{path}: {says}")
    assert "What belongs there: what " in problem


def test_file_of_another_kind_has_a_digest_and_is_not_judged(place: ModelsRoot) -> None:
    (place.root / "visual/labels.txt").write_text("cat\n")
    _safetensors(place.root / "visual/whole.safetensors", 0)
    place.enter("labels", ("file", "visual/labels.txt"), ("file", "visual/whole.safetensors"))
    check = place.check()
    assert check.problems == ()
    labels = of(check, "visual/labels.txt")
    assert (labels.loads, labels.digest) == ("not judged", "recorded")
    assert of(check, "visual/whole.safetensors").loads == "yes"


@pytest.mark.parametrize("where", ["stat", "open"])
def test_missing_permission_is_a_problem(place: ModelsRoot, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """The system's refusal is imitated: root may do everything."""
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
def test_permission_that_the_system_refuses_is_a_problem(place: ModelsRoot) -> None:
    (place.root / RAFT).chmod(0)
    assert all(": file=Permission denied, " in problem for problem in place.check().problems)
    (place.root / RAFT).parent.chmod(0)
    assert all(": file=Permission denied, " in problem for problem in place.check().problems)
    (place.root / RAFT).parent.chmod(0o700)


def test_file_name_that_is_not_utf_8_is_escaped(place: ModelsRoot) -> None:
    """Torch cannot open such a file, and the message can be printed."""
    other = Path(os.fsdecode(os.fsencode(place.root / RAFT).replace(b"C_T_V2", b"\xff\x1b[31m")))
    (place.root / RAFT).rename(other)
    check = place.check()
    (problem,) = check.problems
    named = "raft_small_\\udcff\\x1b[31m-01064c6d.pth"
    assert problem.startswith(f"{place.root / RAFT.rpartition('/')[0]}/{named}: content=damaged ('utf-8' codec can't")
    assert BundleCheck.model_validate_json(check.model_dump_json()) == check
    assert [artifact.path.rpartition("/")[2] for artifact in check.artifacts if artifact.problems] == [named]


def test_all_problems_are_found_in_one_run(place: ModelsRoot) -> None:
    (place.root / RAFT).unlink()
    half(place.root / SQUEEZENET)
    folder(place.root / EXTRA)
    shutil.rmtree(place.root / TOKENIZER / "refs")
    shutil.rmtree(place.root / TOKENIZER / "snapshots")
    (place.root / SYNTHETIC_MARKER).write_text("{")
    check = place.check()
    named = {problem.split(": ")[0] for problem in check.problems}
    wrong = {place.root / path for path in (RAFT, SQUEEZENET, EXTRA, TOKENIZER, SYNTHETIC_MARKER)}
    assert named == {str(path) for path in wrong}


@pytest.mark.parametrize("content", ["", "{", '{"files": NaN}', None])
def test_broken_marker_is_a_problem_and_everything_else_is_judged(place: ModelsRoot, content: str | None) -> None:
    marker = place.root / SYNTHETIC_MARKER
    if content is None:
        pipe(marker)
    else:
        marker.write_text(content)
    check = place.check()
    assert check.problems == (
        f"{marker}: content=unreadable, expected what tools.make_bundle wrote. Make the bundle again.",
    )
    assert of(check, RAFT).loads == "yes"


# --- digests ---


def test_digest_that_differs_from_the_catalog_is_a_problem_with_both(place: ModelsRoot) -> None:
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


def test_changed_file_is_a_problem_until_relocked(place: ModelsRoot) -> None:
    assert of(place.check(), EXTRA).digest == "recorded"
    before = BundleLock.model_validate_json((place.root / LOCK).read_bytes())
    assert set(before.files) == {RAFT, SQUEEZENET, EXTRA}
    again = place.check()
    assert (again.read_files, of(again, EXTRA).digest) == (0, "unchanged")
    torch.save({"a.weight": torch.zeros(3)}, place.root / EXTRA)
    for _ in range(2):
        check = place.check()
        (problem,) = check.problems
        assert f"changed since it was locked on {before.files[EXTRA].locked_on}, expected" in problem
        assert "Put that file back; if the change is meant, run with --relock." in problem
        assert (check.read_files, of(check, EXTRA).digest) == (1, "changed")
        assert of(check, EXTRA).expected_sha256 == before.files[EXTRA].sha256
    check = place.check(relock=True)
    assert (check.problems, of(check, EXTRA).digest) == ((), "relocked")
    again = place.check()
    assert (again.problems, again.read_files, of(again, EXTRA).digest) == ((), 0, "unchanged")


def test_reread_sees_a_change_behind_an_old_time_stamp(place: ModelsRoot) -> None:
    place.check()
    facts = (place.root / EXTRA).stat()
    with (place.root / EXTRA).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    os.utime(place.root / EXTRA, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert of(place.check(), EXTRA).digest == "unchanged"
    check = place.check(reread=True)
    assert (check.read_files, of(check, EXTRA).digest) == (3, "changed")


def test_file_with_a_problem_is_never_locked(place: ModelsRoot) -> None:
    _another_models(place.root / RAFT)
    assert place.check(relock=True).problems
    assert set(Lock.open(place.root / LOCK).files) == {SQUEEZENET, EXTRA}
