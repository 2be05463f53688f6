"""A fake host for tests of host speed and retries."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterable

import pytest

from fixtures.measure import host_speed


class Host:
    """A host on a fake clock, which only its Python and waiting for a CPU move.

    Attributes:
        probe_s: seconds that the piece of Python takes.
        slowdowns: factor of each CPU on `probe_s`.
        busy: CPUs on which another program has its turn first, for a millisecond.
        at: the CPU of this thread; it moves only when it is no longer allowed there.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.probe_s = 1e-4
        self.slowdowns = [1.0]
        self.busy: frozenset[int] = frozenset()
        self.at = 0
        self.allowed = frozenset({0})
        self.waited_s = 0.0

    def work(self) -> None:
        """The piece of Python."""
        self.now += self.probe_s * self.slowdowns[self.at]

    def allow(self, _: int, cpus: Iterable[int]) -> None:
        self.allowed = frozenset(cpus)
        if self.at not in self.allowed:
            self.at = min(self.allowed)
            if self.at in self.busy:
                self.now += 1e-3
                self.waited_s += 1e-3


def install(monkeypatch: pytest.MonkeyPatch) -> Host:
    """Put a fake host in the place of clock, sleep, Python and CPUs."""
    fake = Host()
    monkeypatch.setattr(time, "perf_counter", lambda: fake.now)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(gc, "collect", lambda: 0)  # takes a tenth of a second in a process as large as the tests'
    monkeypatch.setattr(host_speed, "_work", fake.work)
    monkeypatch.setattr(host_speed, "_waited_s", lambda: fake.waited_s)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(fake.allowed), raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", fake.allow, raising=False)
    return fake
