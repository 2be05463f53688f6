"""The models root: where checkpoints are found, their digests, and which of them are synthetic."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest
import torch

from fixtures.errors import InputError
from fixtures.spec import Variant
from fixtures.subject import locate_checkpoint
from fixtures.weights.bundle import SYNTHETIC_MARKER, Bundle
from fixtures.weights.checkpoint import read_state_dict
from meta_tests.cache import link_tree

MIDAS = Variant(name="m", family="midas", model="MiDaS_small", height=64, width=64)
RAFT = Variant(name="r", family="raft", model="raft_small", height=128, width=128)


@pytest.fixture
def bundle(bundle_root: Path, tmp_path: Path) -> Bundle:
    return Bundle(link_tree(bundle_root, tmp_path / "copy"))


def test_root_comes_from_the_option_or_the_environment(bundle_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DP_MODELS_ROOT", raising=False)
    with pytest.raises(InputError, match="DP_MODELS_ROOT: value=not set"):
        Bundle.open(None)
    monkeypatch.setenv("DP_MODELS_ROOT", str(bundle_root))
    assert Bundle.open(None).root == bundle_root
    for unusable in ("/nowhere", __file__, "long" * 100):
        with pytest.raises(InputError, match=f"--models-root: value={unusable}, expected a folder that exists"):
            Bundle.open(unusable)


def test_weights_have_the_digest_of_the_file_and_say_whether_it_is_synthetic(bundle: Bundle) -> None:
    path = locate_checkpoint(MIDAS, bundle)
    weights = bundle.weights(path)
    assert weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert weights.name == "torch_cache/hub/checkpoints/midas_v21_small_256.pt"
    assert weights.synthetic


def test_real_file_in_a_synthetic_root_is_not_synthetic(bundle: Bundle) -> None:
    path = locate_checkpoint(MIDAS, bundle)
    changed = {key: value + 1 for key, value in read_state_dict(path).items()}
    path.unlink()
    torch.save(changed, path)
    assert not bundle.weights(path).synthetic


def test_root_that_torch_cannot_open_is_refused(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path) + b"/\xe4"
    os.mkdir(root)  # noqa: PTH102 - a Path would do, and bytes show what is on the disk
    with pytest.raises(InputError, match=r"--models-root: value=.*, expected a path in UTF-8\. Set PYTHONUTF8=1 where"):
        Bundle.open(os.fsdecode(root))


@pytest.mark.parametrize("content", ["[]", "{", '{"files": {}}', '{"seed": 0, "warning": "", "files": {"a": []}}'])
def test_damaged_marker_is_refused(bundle: Bundle, content: str) -> None:
    (bundle.root / SYNTHETIC_MARKER).write_text(content)
    with pytest.raises(InputError, match=r"SYNTHETIC\.json: content=unreadable"):
        bundle.require_readable_marker()
    with pytest.raises(InputError, match=r"SYNTHETIC\.json: content=unreadable"):
        bundle.weights(locate_checkpoint(RAFT, bundle))


def test_other_official_name_is_found_and_two_are_refused(bundle: Bundle) -> None:
    path = locate_checkpoint(RAFT, bundle)
    other = path.rename(path.with_name("raft_small_C_T_V1-ad48884c.pth"))
    assert locate_checkpoint(RAFT, bundle) == other
    shutil.copy(other, path.with_name("raft_small_mine.pth"))
    with pytest.raises(InputError, match=r"expected one file\. Name it with `weights:`"):
        locate_checkpoint(RAFT, bundle)


def test_official_name_wins_over_the_pattern(bundle: Bundle) -> None:
    path = locate_checkpoint(RAFT, bundle)
    shutil.copy(path, path.with_name("raft_small_mine.pth"))
    assert locate_checkpoint(RAFT, bundle) == path


def test_spec_may_name_the_checkpoint(bundle: Bundle) -> None:
    named = RAFT.model_copy(update={"weights": "visual/mine.pth"})
    with pytest.raises(InputError, match=r"visual/mine\.pth: file=missing"):
        locate_checkpoint(named, bundle)


def test_name_that_no_file_can_have_is_refused(bundle: Bundle) -> None:
    named = RAFT.model_copy(update={"weights": "long" * 100})
    with pytest.raises(InputError, match=r"file=File name too long, expected the official checkpoint\."):
        locate_checkpoint(named, bundle)
