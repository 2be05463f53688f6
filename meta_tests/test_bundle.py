"""Checkpoints are found by their official names, hashed, and refused with a reason when they are something else."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fixtures.errors import InputError
from fixtures.spec import Variant
from fixtures.subject import load_model, locate_checkpoint, require_loadable
from fixtures.weights.bundle import SYNTHETIC_MARKER, Bundle
from fixtures.weights.checkpoint import read_state_dict

MIDAS = Variant(name="m", family="midas", model="MiDaS_small", height=64, width=64)
RAFT = Variant(name="r", family="raft", model="raft_small", height=128, width=128)


@pytest.fixture
def bundle(bundle_root: Path, tmp_path: Path) -> Bundle:
    return Bundle(Path(shutil.copytree(bundle_root, tmp_path / "copy")))


def test_the_root_comes_from_the_option_or_the_environment(bundle_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DP_MODELS_ROOT", raising=False)
    with pytest.raises(InputError, match="DP_MODELS_ROOT: value=not set"):
        Bundle.open(None)
    monkeypatch.setenv("DP_MODELS_ROOT", str(bundle_root))
    assert Bundle.open(None).root == bundle_root
    for unusable in ("/nowhere", __file__, "long" * 100):
        with pytest.raises(InputError, match=f"--models-root: value={unusable}, expected a folder that exists"):
            Bundle.open(unusable)


def test_digests_are_of_the_file_and_tell_synthetic_ones(bundle: Bundle) -> None:
    path = locate_checkpoint(MIDAS, bundle)
    weights = bundle.weights(path)
    assert weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert weights.name == "torch_cache/hub/checkpoints/midas_v21_small_256.pt"
    assert weights.synthetic


def test_a_real_file_in_a_synthetic_root_is_not_called_synthetic(bundle: Bundle) -> None:
    path = locate_checkpoint(RAFT, bundle)
    torch.save({key: value + 1 for key, value in read_state_dict(path).items()}, path)
    assert not bundle.weights(path).synthetic


@pytest.mark.parametrize("content", ["[]", "{", '{"files": {}}', '{"seed": 0, "warning": "", "files": {"a": []}}'])
def test_a_damaged_marker_is_refused(bundle: Bundle, content: str) -> None:
    (bundle.root / SYNTHETIC_MARKER).write_text(content)
    with pytest.raises(InputError, match=r"SYNTHETIC\.json: content=unreadable"):
        bundle.require_readable_marker()
    with pytest.raises(InputError, match=r"SYNTHETIC\.json: content=unreadable"):
        bundle.weights(locate_checkpoint(RAFT, bundle))


def test_another_official_name_is_found_and_two_are_ambiguous(bundle: Bundle) -> None:
    path = locate_checkpoint(RAFT, bundle)
    other = path.rename(path.with_name("raft_small_C_T_V1-ad48884c.pth"))
    assert locate_checkpoint(RAFT, bundle) == other
    shutil.copy(other, path.with_name("raft_small_mine.pth"))
    with pytest.raises(InputError, match=r"expected one file\. Name it with `weights:`"):
        locate_checkpoint(RAFT, bundle)


def test_the_official_name_wins_over_the_pattern(bundle: Bundle) -> None:
    path = locate_checkpoint(RAFT, bundle)
    shutil.copy(path, path.with_name("raft_small_mine.pth"))
    assert locate_checkpoint(RAFT, bundle) == path


def test_a_spec_may_name_the_checkpoint(bundle: Bundle) -> None:
    named = RAFT.model_copy(update={"weights": "visual/mine.pth"})
    with pytest.raises(InputError, match=r"visual/mine\.pth: file=missing"):
        locate_checkpoint(named, bundle)


def test_a_name_that_no_file_can_have_is_refused(bundle: Bundle) -> None:
    named = RAFT.model_copy(update={"weights": "long" * 100})
    with pytest.raises(InputError, match=r"file=File name too long, expected the official checkpoint\."):
        locate_checkpoint(named, bundle)


class _Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this ran",)


def _without_first_key(state_dict: dict[str, Tensor], first: str) -> None:
    del state_dict[first]


def _with_another_key(state_dict: dict[str, Tensor], _: str) -> None:
    state_dict["head.weight"] = torch.zeros(1)


def _with_another_shape(state_dict: dict[str, Tensor], first: str) -> None:
    state_dict[first] = state_dict[first][:1].clone()


def _with_an_integer(state_dict: dict[str, Tensor], first: str) -> None:
    state_dict[first] = state_dict[first].long()


KEY_CHANGES = {
    "key missing": _without_first_key,
    "key unknown": _with_another_key,
    "other shape": _with_another_shape,
    "an integer": _with_an_integer,
}
CONTENTS = {"code in a zip": {"weight": _Code()}, "no state dict": [torch.zeros(1)]}


def _break(path: Path, how: str) -> None:
    whole, state_dict = path.read_bytes(), read_state_dict(path)
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how in CONTENTS:
        torch.save(CONTENTS[how], path)
    elif how in KEY_CHANGES:
        KEY_CHANGES[how](state_dict, next(iter(state_dict)))
        torch.save(state_dict, path)
    elif how != "missing":
        raw = {
            "zero bytes": b"",
            "half a file": whole[: len(whole) // 2],
            "text": b"no\n",
            "code": pickle.dumps(_Code()),
        }
        path.write_bytes(raw[how])


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", "file=missing, expected the official checkpoint. Put it there; nothing is downloaded."),
        ("folder", "file=a folder"),
        ("zero bytes", "content=damaged"),
        ("half a file", "content=damaged"),
        ("text", "code or an unreadable pickle"),
        ("code", "code or an unreadable pickle"),
        ("code in a zip", "code or an unreadable pickle"),
        ("no state dict", "content=no state dict"),
        ("key missing", "1 keys missing, first 'feature_encoder"),
        ("key unknown", "1 keys unknown, first 'head.weight'"),
        ("other shape", "1 shapes differ, first 'feature_encoder"),
        ("an integer", "weight' torch.int64 for torch.float32"),
    ],
)
def test_a_broken_checkpoint_is_refused_before_anything_is_measured(
    bundle: Bundle, capfd: pytest.CaptureFixture[str], how: str, says: str
) -> None:
    path = locate_checkpoint(RAFT, bundle)
    _break(path, how)
    with pytest.raises(InputError) as caught:
        require_loadable(RAFT, bundle)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    assert "this ran" not in capfd.readouterr().out


def test_another_models_checkpoint_is_refused(bundle: Bundle) -> None:
    shutil.copy(locate_checkpoint(MIDAS, bundle), locate_checkpoint(RAFT, bundle))
    with pytest.raises(InputError, match=r"keys missing.*keys unknown.*expected the 1\d\d keys"):
        require_loadable(RAFT, bundle)


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "before torch 1.6"])
def test_both_official_formats_are_read(bundle: Bundle, as_zip: bool) -> None:
    path = locate_checkpoint(RAFT, bundle)
    torch.save(read_state_dict(path), path, _use_new_zipfile_serialization=as_zip)
    require_loadable(RAFT, bundle)


def test_a_counter_that_is_a_floating_number_is_refused(bundle: Bundle) -> None:
    path = locate_checkpoint(MIDAS, bundle)
    torch.save({key: value.float() for key, value in read_state_dict(path).items()}, path)
    with pytest.raises(
        InputError, match=r"dtypes differ, first '.*num_batches_tracked' torch\.float32 for torch\.int64"
    ):
        require_loadable(MIDAS, bundle)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_weights_of_any_floating_dtype_become_float32(bundle: Bundle, dtype: torch.dtype) -> None:
    path = locate_checkpoint(MIDAS, bundle)
    stored = {
        key: value.to(dtype) if value.dtype.is_floating_point else value for key, value in read_state_dict(path).items()
    }
    torch.save(stored, path)
    require_loadable(MIDAS, bundle)
    model = load_model(MIDAS, path)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert torch.isfinite(model(torch.zeros(1, 3, 64, 64))).all()


def test_a_training_checkpoint_is_unwrapped(bundle: Bundle) -> None:
    path = locate_checkpoint(RAFT, bundle)
    torch.save({"model": read_state_dict(path), "optimizer": {}}, path)
    require_loadable(RAFT, bundle)
