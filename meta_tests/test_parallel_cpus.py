"""fixtures.parallel.cpus: every worker gets whole cores of its own, near its GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from fixtures.parallel.cpus import shares


def _topology(folder: Path, cores: Sequence[Sequence[int]]) -> Path:
    for core in cores:
        for cpu in core:
            path = folder / f"cpu{cpu}" / "topology"
            path.mkdir(parents=True)
            (path / "thread_siblings_list").write_text(",".join(map(str, core)) + "\n")
    return folder


def test_workers_near_the_same_cpus_get_whole_cores(tmp_path: Path) -> None:
    topology = _topology(tmp_path, [(core, core + 8) for core in range(8)])
    left, right = frozenset({0, 1, 2, 3, 8, 9, 10, 11}), frozenset({4, 5, 6, 7, 12, 13, 14, 15})
    parted = shares({"0": left, "1": left, "2": right}, frozenset(range(16)), topology)
    assert parted == {"0": {0, 1, 8, 9}, "1": {2, 3, 10, 11}, "2": right}


@pytest.mark.parametrize(
    ("near", "usable", "expected"),
    [
        ([{0, 1}, {2, 3}], {0, 1, 2, 3}, [{0, 1}, {2, 3}]),
        ([set(), set()], {0, 1, 2, 3, 4}, [{0, 1}, {2, 3}]),
        ([{64, 65}, {66}], {0, 1}, [{0}, {1}]),
        ([{0, 1, 2}, {2, 3}], {0, 1, 2, 3}, [{0, 1}, {2, 3}]),
        ([{0}, {0}], {0, 1}, [None, None]),
        ([{0, 1}], {0, 1}, [{0, 1}]),
    ],
    ids=["apart", "unknown", "of the host", "overlapping", "too few", "one"],
)
def test_workers_get_even_parts_or_share_all_cpus(
    tmp_path: Path, near: list[set[int]], usable: set[int], expected: list[set[int] | None]
) -> None:
    named = {str(index): frozenset(cpus) for index, cpus in enumerate(near)}
    parted = shares(named, frozenset(usable), tmp_path)
    assert list(parted.values()) == expected
    parts = [part for part in parted.values() if part]
    assert sum(map(len, parts)) == len(frozenset().union(*parts)), "no CPU in two parts"
