"""Every kind of value in every place of a document: what a damaged or mistyped file may hold."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

Place = tuple[str | int, ...]

# One of each kind that JSON or YAML can hold, with those at the edges of a kind.
VALUES: tuple[Any, ...] = (
    *(None, True, False),
    *(0, 1, -1, 4096, 10**9 + 1, 2**70, -(2**70)),
    *(0.0, 0.5, -1.5, 1e308, float("inf"), float("-inf"), float("nan")),
    *("", "x", "0", "../x", "a" * 300, "ünï 日本", "\u2028", "\x1b[31m", "\U0001f600"),
    datetime.date(2026, 11, 27),
    *([], [None], [1, 1], ["x", {"y": []}], [[[[[]]]]]),
    *({}, {"x": None}, {"": [1]}, {"height": {"height": 1}}),
)

# The same at random, for properties of many examples.
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=12), st.dates()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


def places(node: Any, at: Place = ()) -> list[Place]:
    """The place of every value in a document, except the document itself."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [at, *(place for key, child in children for place in places(child, (*at, key)))][0 if at else 1 :]


def with_any_value(document: Any) -> Iterator[Any]:
    """The document with each value of `VALUES` in each place, and with each key missing."""
    for place in places(document):
        for value in VALUES:
            changed, parent = _copied(document, place)
            parent[place[-1]] = value
            yield changed
        changed, parent = _copied(document, place)
        del parent[place[-1]]
        yield changed


def _copied(document: Any, place: Place) -> tuple[Any, Any]:
    """A copy of the document, and what in it holds the place."""
    changed = copy.deepcopy(document)
    parent = changed
    for key in place[:-1]:
        parent = parent[key]
    return changed, parent
