"""What the cache of the tests gives out is what a test would have made itself."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fixtures.export.parity_inputs import parity_inputs
from fixtures.export.reference import Reference
from fixtures.measure.fork_server import fork_server
from fixtures.subject import locate_checkpoint
from fixtures.weights.bundle import Bundle
from meta_tests import cache, source_digest
from meta_tests.cache import Recipe, entry, view
from meta_tests.conftest import HANGS_S
from meta_tests.exports import RAFT
from meta_tests.loading import CONTENT
from meta_tests.references import StoredReference
from meta_tests.source_digest import ROOT, files_of

CODE = ("fixtures.errors",)
CONTENTS = {"a.bin": b"first", "below/b.bin": b"second"}


@pytest.fixture
def cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(cache, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(cache, "_verified", {})
    return tmp_path / "cache"


def counted(log: Path, name: str = "things", pause_s: float = 0.0) -> Recipe:
    """A recipe that notes each making in a log."""

    def make(folder: Path) -> None:
        with log.open("a") as file:
            file.write("made\n")
        time.sleep(pause_s)
        for path, content in CONTENTS.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(content)

    return Recipe(name, {"seed": 0}, CODE, make)


def times_made(log: Path) -> int:
    return len(log.read_text().splitlines())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- made once ---


def test_entry_is_made_once_and_seen_by_every_view(cache_folder: Path, tmp_path: Path) -> None:
    recipe = counted(tmp_path / "log")
    for name in ("one", "two"):
        assert contents(view(recipe, tmp_path / name)) == CONTENTS
    (tmp_path / "one" / "a.bin").unlink()
    (tmp_path / "one" / "a.bin").write_bytes(b"replaced")
    assert contents(view(recipe, tmp_path / "three")) == CONTENTS
    assert times_made(tmp_path / "log") == 1


def view_at(cache_folder: Path, log: Path, folder: Path) -> None:
    cache.CACHE = cache_folder
    view(counted(log, pause_s=0.3), folder)


def test_processes_that_ask_at_once_wait_for_the_one_that_makes_it(cache_folder: Path, tmp_path: Path) -> None:
    server, folders = fork_server(), [tmp_path / str(index) for index in range(3)]
    given = [(cache_folder, tmp_path / "log", folder) for folder in folders]
    processes = [server.Process(target=view_at, args=arguments) for arguments in given]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=HANGS_S)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert times_made(tmp_path / "log") == 1
    assert all(contents(folder) == CONTENTS for folder in folders)


def test_exception_of_a_maker_leaves_no_entry(cache_folder: Path, tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError("the gate refused it")

    with pytest.raises(RuntimeError, match="the gate refused it"):
        view(Recipe("things", {}, CODE, fail), tmp_path / "view")
    assert [path.name for path in cache_folder.iterdir()] == ["things.lock"]


# --- made again ---


def flip_a_byte(content: Path) -> None:
    data = bytearray((content / "a.bin").read_bytes())
    data[0] ^= 1
    with (content / "a.bin").open("r+b") as file:
        file.write(data)


def flip_a_byte_and_restore_its_time(content: Path) -> None:
    before = (content / "a.bin").stat()
    flip_a_byte(content)
    os.utime(content / "a.bin", ns=(before.st_atime_ns, before.st_mtime_ns))


def remove_a_file(content: Path) -> None:
    (content / "below" / "b.bin").unlink()


def add_a_file(content: Path) -> None:
    (content / "c.bin").touch()


def cut_the_digests(content: Path) -> None:
    digests = content.parent / "digests.json"
    digests.write_bytes(digests.read_bytes()[:-10])


def remove_the_digests(content: Path) -> None:
    (content.parent / "digests.json").unlink()


DAMAGES = [flip_a_byte, remove_a_file, add_a_file, cut_the_digests, remove_the_digests]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("same_process", [True, False], ids=["same process", "another process"])
def test_damaged_entry_is_made_again(
    cache_folder: Path, tmp_path: Path, damage: Callable[[Path], None], same_process: bool
) -> None:
    recipe = counted(tmp_path / "log")
    with entry(recipe) as content:
        damage(content)
    if not same_process:
        cache._verified.clear()
    assert contents(view(recipe, tmp_path / "view")) == CONTENTS
    assert times_made(tmp_path / "log") == 2


def test_damage_that_keeps_size_and_time_is_seen_by_the_next_process(cache_folder: Path, tmp_path: Path) -> None:
    recipe = counted(tmp_path / "log")
    with entry(recipe) as content:
        flip_a_byte_and_restore_its_time(content)
    cache._verified.clear()
    assert contents(view(recipe, tmp_path / "view")) == CONTENTS


@pytest.mark.parametrize("large_bytes", [1, 1000], ids=["large file", "small file"])
def test_write_into_a_view_does_not_reach_the_next_one(
    cache_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large_bytes: int
) -> None:
    monkeypatch.setattr(cache, "_LARGE_BYTES", large_bytes)
    recipe = counted(tmp_path / "log")
    flip_a_byte(view(recipe, tmp_path / "one"))
    assert contents(view(recipe, tmp_path / "two")) == CONTENTS
    assert times_made(tmp_path / "log") == (2 if large_bytes == 1 else 1)


def test_what_a_killed_process_had_begun_is_removed(cache_folder: Path, tmp_path: Path) -> None:
    recipe = counted(tmp_path / "log")
    begun = cache_folder / f".{recipe.folder.name}-begun"
    begun.mkdir(parents=True)
    view(recipe, tmp_path / "view")
    assert not begun.exists()


# --- what an entry follows from ---


def test_key_follows_from_what_is_given_from_code_and_from_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = counted(tmp_path / "log")
    keys = {recipe.key, replace(recipe, given={"seed": 1}).key, replace(recipe, modules=("fixtures.files",)).key}
    assert replace(recipe).key == recipe.key
    monkeypatch.setattr(cache, "source_digest", lambda *_: "other code")
    keys.add(replace(recipe).key)
    monkeypatch.setattr(cache, "machine_digest", lambda: "other libraries")
    keys.add(replace(recipe).key)
    assert len(keys) == 5


def test_code_of_an_export_is_every_module_that_its_gate_imports() -> None:
    files = {path.relative_to(ROOT).as_posix() for path in files_of(("fixtures.export.gate",))}
    assert files >= {
        "fixtures/__init__.py",
        "fixtures/export/gate.py",
        "fixtures/export/translations.py",
        "fixtures/models/midas.py",
        "fixtures/models/parts/clip.py",
        "fixtures/modalities/prompts.txt",
        "fixtures/weights/torchscript.py",
    }
    assert not {file for file in files if file.startswith(("fixtures/report/", "fixtures/comparison/", "tools/"))}


def test_only_the_registry_imports_modules_by_a_computed_name() -> None:
    """The digest of code reads import statements, and knows which packages the registry imports from.

    `environment.py` imports libraries by the names that runtimes declare; their versions are in the machine's digest.
    """
    computed = sorted(
        path.relative_to(ROOT).as_posix()
        for path in files_of(("fixtures.export.gate", "tools.make_bundle"))
        if path.suffix == ".py" and re.search(r"import_module\(|__import__\((?!\")", path.read_text())
    )
    assert computed == ["fixtures/environment.py", "fixtures/registry.py"]


def test_digest_of_code_follows_from_the_content_of_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_digest, "ROOT", tmp_path)
    (tmp_path / "fixtures").mkdir()
    digests = set()
    for name, text in {
        "__init__.py": "",
        "a.py": "from fixtures import b",
        "b.py": "LIMIT = 1",
        "prompts.txt": "a dog",
        "c.py": "imported by none",
    }.items():
        (tmp_path / "fixtures" / name).write_text(text)
        source_digest.source_digest.cache_clear()
        digests.add(source_digest.source_digest("fixtures.a"))
    source_digest.source_digest.cache_clear()
    assert len(digests) == 4


# --- room ---


def test_entries_that_were_used_longest_ago_make_room(
    cache_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "LIMIT_BYTES", 2 * sum(map(len, CONTENTS.values())))
    recipes = [counted(tmp_path / "log", name) for name in ("first", "second", "third", "fourth")]
    for age, recipe in zip((400, 300), recipes[:2], strict=True):
        view(recipe, tmp_path / recipe.name)
        os.utime(recipe.folder / "digests.json", times=(time.time() - age,) * 2)
    with entry(recipes[0]) as in_use:
        os.utime(recipes[0].folder / "digests.json", times=(time.time() - 400,) * 2)
        view(recipes[2], tmp_path / "third")
        assert contents(in_use) == CONTENTS
    view(recipes[3], tmp_path / "fourth")
    assert [recipe.name for recipe in recipes if recipe.folder.exists()] == ["third", "fourth"]
    assert contents(tmp_path / "first") == CONTENTS, "a view outlives its entry"


# --- outputs of a reference ---


def test_stored_reference_has_the_outputs_of_a_computed_one(cache_folder: Path, bundle_root: Path) -> None:
    inputs = [parity_inputs(CONTENT, RAFT)[index] for index in (0, 6)]
    checkpoint = locate_checkpoint(RAFT, Bundle(bundle_root))
    computed, storing, stored = (
        kind(RAFT, checkpoint, inputs) for kind in (Reference, StoredReference, StoredReference)
    )
    for reference in (storing, stored):
        for given, outputs in (
            (reference.truth, computed.truth),
            (reference.outputs("cpu", "fp32"), computed.outputs("cpu", "fp32")),
            (reference.perturbed("cpu", "fp32", [1], 3), computed.perturbed("cpu", "fp32", [1], 3)),
        ):
            assert all(np.array_equal(one, other) for one, other in zip(given, outputs, strict=True))
    assert len(list(cache_folder.glob("reference_raft-*"))) == 3
    noisy = StoredReference(RAFT, checkpoint, inputs, input_noise=1e-3)
    assert not np.array_equal(noisy.perturbed("cpu", "fp32", [1], 3)[0], stored.perturbed("cpu", "fp32", [1], 3)[0])
