"""Bundles, exported files and reference outputs of the tests, kept on disk for other workers and later runs.

An entry is named by a digest over all that its content follows from: what it is made of, the code that makes it, the
libraries. The code that makes it is the suite's own, so that an entry is what the test would have made itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fixtures.files import locked, new_folder, sha256_of
from meta_tests.source_digest import ROOT, machine_digest, source_digest

CACHE = ROOT / ".cache" / "meta_tests"

# A judgment: all entries of one state of the code are 2.9 GB (`du -sh .cache/meta_tests` after `make test`), and an
# older state is seldom asked for again.
LIMIT_BYTES = 4 * 1024**3

_LARGE_BYTES = 1024**2  # a judgment: tests write into JSON and text, and copying those takes no time
_CONTENT, _DIGESTS = "content", "digests.json"
# Entries whose files this process has read whole, with their sizes and times of change then.
_verified: dict[Path, dict[str, tuple[int, int]]] = {}


@dataclass(frozen=True)
class Recipe:
    """How to make an entry.

    Attributes:
        name: begins the name of its folder; recipes of one name are made one after the other.
        given: what it is made of, as JSON can hold it.
        modules: whose code makes it, what they import included.
        make: fills an empty folder.
    """

    name: str
    given: Mapping[str, Any]
    modules: tuple[str, ...]
    make: Callable[[Path], object]

    @cached_property
    def key(self) -> str:
        """Digest over all that the content follows from."""
        identity = [self.given, source_digest(*self.modules), machine_digest()]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]

    @property
    def folder(self) -> Path:
        """Where the entry is kept."""
        return CACHE / f"{self.name}-{self.key}"


@contextmanager
def entry(recipe: Recipe) -> Iterator[Path]:
    """The content of an entry, to be read inside the context; made first where it is missing or damaged.

    One process makes it, others that want it wait. An exception of the maker leaves no entry.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with locked(_lock_of(recipe.name)):
        if not _is_whole(recipe.folder):
            _remove_leftovers(recipe.folder)
            _make(recipe)
            _remove_oldest(recipe.folder)
        os.utime(recipe.folder / _DIGESTS)
        yield recipe.folder / _CONTENT


def view(recipe: Recipe, folder: Path) -> Path:
    """The content of an entry at a new `folder`, to change at will but for one thing: no writing into a large file.

    A large file is shared with the entry. A test that writes into it, instead of replacing it, damages the entry,
    which then is made again.
    """
    with entry(recipe) as content:
        return link_tree(content, folder)


def link_tree(source: Path, folder: Path) -> Path:
    """A folder of the same files: hard links of large files on the same disk, copies of all others."""
    shutil.copytree(source, folder, copy_function=_link_if_large)
    return folder


def _link_if_large(source: str, target: str) -> None:
    if Path(source).stat().st_size >= _LARGE_BYTES:
        with contextlib.suppress(OSError):  # another disk
            os.link(source, target)
            return
    shutil.copy2(source, target)


def _lock_of(name: str) -> Path:
    return CACHE / f"{name}.lock"


def _make(recipe: Recipe) -> None:
    with new_folder(recipe.folder, recipe.name) as beside:
        content = beside / _CONTENT
        content.mkdir()
        recipe.make(content)
        digests = {name: sha256_of(content / name) for name in _state(content)}
        (beside / _DIGESTS).write_text(json.dumps(digests, indent=1))
    _verified[recipe.folder] = _state(recipe.folder / _CONTENT)


def _is_whole(folder: Path) -> bool:
    """Whether every file has its digest; a file is read once in a process, until its size or time changes."""
    content = folder / _CONTENT
    try:
        digests = json.loads((folder / _DIGESTS).read_bytes())
    except (OSError, ValueError):
        return False
    state = _state(content)
    if state.keys() != digests.keys():
        return False
    if _verified.get(folder) != state:
        if any(sha256_of(content / name) != digest for name, digest in digests.items()):
            return False
        _verified[folder] = state
    return True


def _state(content: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file below a folder."""
    files = sorted(path for path in content.rglob("*") if path.is_file())
    stats = ((path.relative_to(content).as_posix(), path.stat()) for path in files)
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats}


def _remove_leftovers(folder: Path) -> None:
    """A damaged entry, and what a killed process had begun; the lock is held."""
    for path in (folder, *folder.parent.glob(f".{folder.name}-*")):
        shutil.rmtree(path, ignore_errors=True)


def _remove_oldest(kept: Path) -> None:
    """Remove the entries that were used longest ago, until the others fit; not those that a process is using."""
    entries = sorted(CACHE.glob(f"*/{_DIGESTS}"), key=lambda path: -path.stat().st_mtime)
    total = 0
    for folder in (path.parent for path in entries):
        total += sum(size for size, _ in _state(folder / _CONTENT).values())
        if total > LIMIT_BYTES and folder != kept:
            _remove_unless_used(folder)


def _remove_unless_used(folder: Path) -> None:
    with _lock_of(folder.name.rpartition("-")[0]).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        shutil.rmtree(folder, ignore_errors=True)
