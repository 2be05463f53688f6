"""AOTInductor packages, compiled once for all tests and kept in the cache."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch._inductor import config, cpu_vec_isa

from fixtures.cases import Export
from fixtures.export.gate import Gate, GateSettings, Make
from fixtures.files import sha256_of
from fixtures.manifest import enter, read_manifest
from fixtures.packages import platform_here
from fixtures.spec import Variant
from fixtures.subject import locate_checkpoint
from fixtures.weights.bundle import Bundle
from meta_tests.cache import Recipe, view
from meta_tests.exports import Published, reference_of

TINY = Variant(name="midas_small_64", family="midas", model="MiDaS_small", height=64, width=64)
PACKAGE = "midas/midas_small_64.pt2"
EXPORT = Export(TINY, 1, "fp32", format="aoti")


@contextmanager
def compiled_once() -> Iterator[None]:
    """Inductor inside spares what pays from the third compilation on: the first takes 16 CPU seconds instead of 35.

    Headers are not compiled beforehand, no file is compiled for each extension of the vector instructions to see
    whether it is there, and the code that calls the kernels is not optimised.
    """
    settings = {
        "aot_inductor.precompile_headers": False,
        "aot_inductor.compile_wrapper_opt_level": "O0",
        "cpp_cache_precompile_headers": False,
        "cpp.vec_isa_ok": True,
    }
    with config.patch(settings), mock.patch.object(cpu_vec_isa.VecISA, "check_build", return_value=False):
        yield


def published_package(bundle_root: Path, export: Export = EXPORT, on_cuda: bool = False) -> Published:
    """A variant of a bundle as a package for this machine, which has passed its gate; its file is in the cache."""
    return _published(bundle_root, export, on_cuda)


@cache
def _published(bundle_root: Path, export: Export, on_cuda: bool) -> Published:
    variant = export.variant
    weights = Bundle(bundle_root).weights(locate_checkpoint(variant, Bundle(bundle_root)))
    reference = reference_of(bundle_root, variant)

    def make(folder: Path) -> None:
        gate = Gate(export, reference, weights, GateSettings(folder, export.file, "24.08", on_cuda, None, ""))
        with nullcontext() if on_cuda else compiled_once():
            gate.publish()
        gate.close()

    here = platform_here(torch.device("cuda", 0) if on_cuda else torch.device("cpu"))
    given: dict[str, Any] = {"variant": variant.model_dump(mode="json"), "batch": export.batch, "dtype": export.dtype}
    given |= {"weights": [weights.name, weights.sha256, weights.synthetic], "platform": here.model_dump()}
    recipe = Recipe(f"package_{export.id}", given, (__name__,), make)
    return Published(export, reference, weights, view(recipe, bundle_root.parent / recipe.folder.name))


def changed_members(package: Path, change: Callable[[str, bytes], bytes]) -> Make:
    """What writes a package anew, each member of its archive changed, with a right checksum."""

    def make(_export: object, _weights: object, path: Path) -> None:
        with zipfile.ZipFile(package) as old, zipfile.ZipFile(path, "w") as new:
            for member in old.infolist():
                new.writestr(member, change(member.filename, old.read(member)))

    return make


def changed_metadata(package: Path, changes: Mapping[str, str]) -> Make:
    """What writes a package that says something else of itself."""

    def change(name: str, content: bytes) -> bytes:
        return json.dumps({**json.loads(content), **changes}).encode() if name.endswith("metadata.json") else content

    return changed_members(package, change)


def relabelled(package: Published, folder: Path, **platform: str) -> Published:
    """A copy of a published package that was compiled for something else, as it and its manifest say."""
    copy = package.copy(folder)
    copy.file.unlink()
    changed_metadata(package.file, platform)(package.export, package.weights, copy.file)
    name, record = copy.export.file, read_manifest(copy.folder).files[copy.export.file]
    assert record.platform is not None
    changes = {"platform": record.platform.model_copy(update=platform), "sha256": sha256_of(copy.file)}
    enter(copy.folder, name, record.model_copy(update=changes))
    return copy


def cut(package: Path, length: int) -> Make:
    """What writes the first bytes of a package."""

    def make(_export: object, _weights: object, path: Path) -> None:
        shutil.copyfile(package, path)
        with path.open("r+b") as file:
            file.truncate(length)

    return make
