"""Files with damage: bytes of a whole one changed, cut, put in, moved or overwritten, by a seed.

`PRETRITON_MUTATIONS=5000 pytest meta_tests/test_mutated_*.py` tries more than the few that every run of the tests does.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

from fixtures.errors import InputError
from meta_tests.runs import is_one_message

_DEFAULT = 1000  # judgment: 2,000 of two kinds take ten seconds, 24,000 half a minute
# What slips of editors, disks and downloads put into files.
_INSERTED = (
    *(b"\0", b"\0" * 512, b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n", b"\r\n", b"\x1a", b"\xed\xa0\x80"),
    *("\u2028".encode(), "\u0085".encode(), b'"', b"\\", b"{", b"}", b"[" * 200, b"]", b",", b":", b"-", b"0"),
    *(b"9" * 40, b"NaN", b"1e999", b"null", b"true", b"\\ud800", b"../", b"!!python/object:os.system x", b"&a *a"),
)


def mutations_of_each(kinds: int) -> int:
    """How many mutations of each kind of file to try."""
    return max(1, int(os.environ.get("PRETRITON_MUTATIONS", _DEFAULT)) // kinds)


def require_one_message(error: InputError, done: str) -> None:
    """Fail unless a refusal is where, what, rule and next step in one line."""
    assert is_one_message(f"ERROR: {error}\n"), f"{done}: {error}"


def mutated(content: bytes, count: int, kind: str) -> Iterator[tuple[str, bytes]]:
    """Different damages to a file.

    Yields:
        What was done, for the message of a test that fails, and the damaged content.
    """
    for seed in range(count):
        chance = random.Random(f"{kind} {seed}")
        damaged = bytearray(content)
        done = [_damage(damaged, chance) for _ in range(chance.choice((1, 1, 1, 2, 5)))]
        yield f"{kind}, mutation {seed}: {', '.join(done)}", bytes(damaged)


def _damage(content: bytearray, chance: random.Random) -> str:
    """Damage a content in place. Half of all damages are near one of its ends, where formats have their tables."""
    size = len(content)
    near = min(size, 200)
    start = chance.choice((chance.randrange(size + 1), chance.randrange(near + 1), size - chance.randrange(near + 1)))
    start = min(start, max(size - 1, 0))
    end = start + chance.choice((1, 1, 2, 4, 16, 100, size // 2))
    how = chance.choice(("flip", "flip", "byte", "insert", "insert", "delete", "truncate", "zero", "repeat", "swap"))
    if how == "flip" and content:
        content[start] ^= 1 << chance.randrange(8)
    elif how == "byte" and content:
        content[start] = chance.randrange(256)
    elif how == "insert":
        content[start:start] = chance.choice(_INSERTED)
    elif how == "delete":
        del content[start:end]
    elif how == "truncate":
        del content[start:]
    elif how == "zero":
        content[start:end] = bytes(len(content[start:end]))
    elif how == "repeat":
        content[start:start] = content[start:end]
    else:
        content[start:end] = content[start:end][::-1]
    return f"{how} at {start} to {end} of {size}"
