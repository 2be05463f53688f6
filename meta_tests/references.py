"""Reference outputs that are computed once for all runs: the slowest part of a gate on a CPU.

Sessions that are forked read them, and what a test runs in process with the fixture `stored_references`. A session that
a test starts from nothing computes its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, cached_property
from pathlib import Path
from unittest import mock

import numpy as np

from fixtures.export import gate, measured
from fixtures.export.reference import Array64, Reference
from fixtures.files import sha256_of
from fixtures.records import Dtype, Provider
from fixtures.sessions import serve_session
from meta_tests.cache import Recipe, entry
from meta_tests.source_digest import machine_digest, source_digest

_KEPT = ExitStack()


class StoredReference(Reference):
    """A Reference that reads from the cache what an equal one has computed."""

    @cached_property
    def truth(self) -> list[Array64]:
        """The library's outputs in float64 on the CPU, or as `truth_on` says, `[1,…]` for each input."""
        provider, dtype = self._truth_on
        return self._stored(f"truth_{dtype}_{provider}", lambda: super(StoredReference, self).truth)

    def outputs(self, provider: Provider, dtype: Dtype) -> list[Array64]:
        """Outputs in a precision class on the device of a provider, `[1,…]` for each input."""
        key = (provider, dtype)
        if key not in self._outputs:
            compute = super().outputs
            self._outputs[key] = self._stored(f"{dtype}_{provider}", lambda: compute(provider, dtype))
        return self._outputs[key]

    def perturbed(self, provider: Provider, dtype: Dtype, indices: Sequence[int], seed: int) -> list[Array64]:
        """Outputs for some inputs once more, with another draw of rounding errors."""
        draws = self._draws.setdefault((provider, dtype, seed), {})
        if missing := [index for index in indices if index not in draws]:
            compute = super().perturbed
            part = f"{dtype}_{provider}_draw{seed}_of_{'_'.join(map(str, missing))}"
            outputs = self._stored(part, lambda: compute(provider, dtype, missing, seed))
            draws.update(zip(missing, outputs, strict=True))
        return [draws[index] for index in indices]

    def _stored(self, part: str, compute: Callable[[], list[Array64]]) -> list[Array64]:
        given = {**self._identity, "part": part, "original": self._is_original}
        name = f"reference_{self.variant.family}"
        recipe = Recipe(name, given, (Reference.__module__,), lambda folder: _save(folder, compute()))
        with entry(recipe) as folder:
            stacked: Array64 = np.load(folder / "outputs.npy")
        return [stacked[index : index + 1] for index in range(len(stacked))]

    @cached_property
    def _identity(self) -> dict[str, object]:
        tensors = hashlib.sha256()
        for given in self.inputs:
            for tensor in given.tensors:
                tensors.update(f"{tensor.dtype}{tensor.shape}".encode())
                tensors.update(tensor.tobytes())
        return {
            "variant": self.variant.model_dump(mode="json"),
            "weights": _digest_of(self._checkpoint, self._checkpoint.stat().st_mtime_ns),
            "inputs": tensors.hexdigest(),
            "noise": self._input_noise,
        }


@cache
def _digest_of(checkpoint: Path, _changed_ns: int) -> str:
    """sha256 of a checkpoint, which is read once in a process until its time of change differs."""
    return sha256_of(checkpoint)


@contextmanager
def references_kept() -> Iterator[None]:
    """Gates and judges inside read references from the cache."""
    with ExitStack() as stack:
        for module in (gate, measured, serve_session):
            stack.enter_context(mock.patch.object(module, "Reference", StoredReference))
        yield


def keep_references() -> None:
    """The same from now on, in this process and in those that are forked from it."""
    _KEPT.enter_context(references_kept())
    _ = source_digest(Reference.__module__), machine_digest()  # 0.3 CPU seconds that each fork is spared


def _save(folder: Path, outputs: list[Array64]) -> None:
    np.save(folder / "outputs.npy", np.concatenate(outputs))
