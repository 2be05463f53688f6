"""tools/make_bundle.py: the official layout, weights that a seed decides, and what is refused."""

from __future__ import annotations

import json
import resource
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from fixtures.errors import InputError
from fixtures.measure.fork_server import fork_server
from fixtures.weights.bundle import FOLDERS, SYNTHETIC_MARKER, Bundle
from fixtures.weights.checkpoint import read_state_dict
from meta_tests.conftest import HANGS_S, Ended
from meta_tests.runs import ended, is_one_message
from tools.make_bundle import main, make_bundle


def test_bundle_has_the_official_layout(bundle_root: Path) -> None:
    assert all((bundle_root / folder).is_dir() for folder in FOLDERS)
    marker = json.loads((bundle_root / SYNTHETIC_MARKER).read_text())
    assert sorted(marker["files"]) == [
        "torch_cache/hub/checkpoints/midas_v21_small_256.pt",
        "torch_cache/hub/checkpoints/raft_small_C_T_V2-01064c6d.pth",
    ]
    for name, digest in marker["files"].items():
        assert Bundle(bundle_root).weights(bundle_root / name).sha256 == digest


def test_seed_decides_the_weights(bundle_root: Path, tmp_path: Path) -> None:
    name = "torch_cache/hub/checkpoints/raft_small_C_T_V2-01064c6d.pth"
    same = make_bundle(tmp_path / "same", 0, ["raft_small"])
    other = make_bundle(tmp_path / "other", 1, ["raft_small"])
    assert same[name] == json.loads((bundle_root / SYNTHETIC_MARKER).read_text())["files"][name]
    assert other[name] != same[name]
    for key, value in read_state_dict(tmp_path / "other" / name).items():
        assert torch.isfinite(value.float()).all(), key


def test_existing_bundle_is_not_overwritten(bundle_root: Path) -> None:
    with pytest.raises(InputError, match="path=exists, expected a new or empty folder"):
        make_bundle(bundle_root, 0)


def test_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    with pytest.raises(InputError, match="link: path=exists, expected a new or empty folder"):
        make_bundle(tmp_path / "link", 0)


def _make_on_full_disk(out: Path, result: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100 * 1024, resource.RLIM_INFINITY))
    result.send(ended(main, "--model", "raft_small", "--out", out))


def test_full_disk_ends_with_one_message_and_leaves_nothing(tmp_path: Path) -> None:
    here, there = fork_server().Pipe(duplex=False)
    fork_server().Process(target=_make_on_full_disk, args=(tmp_path / "b", there)).start()
    assert here.poll(HANGS_S)
    done: Ended = here.recv()
    assert done.returncode == 2, done.stderr
    assert is_one_message(done.stderr)
    assert "folder=raft_small_C_T_V2-01064c6d.pth could not be written whole, expected a writable folder" in done.stderr
    assert not any(tmp_path.iterdir())


def test_unknown_model_ends_with_one_message_and_code_2(tmp_path: Path) -> None:
    done = ended(main, "--out", tmp_path / "b", "--model", "DPT_Huge")
    assert done.returncode == 2
    assert is_one_message(done.stderr)
    assert done.stderr.startswith("ERROR: --model DPT_Huge: model=unknown, expected one of HTSAT-tiny, HTSAT-base")
    assert not (tmp_path / "b").exists()
