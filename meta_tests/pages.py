"""The pages of this suite, and the commands that their shell blocks show."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent
README, CONTRIBUTING, CHANGELOG = (ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = (README, CONTRIBUTING, CHANGELOG, *DOCS)

_YAML = re.compile(r"^```yaml\n(.*?)^```", re.DOTALL | re.MULTILINE)
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)


def commands(start: str = "") -> list[str]:
    """Every line of a shell block on any page that begins so, once each."""
    lines = {line for page in PAGES for block in _BLOCK.findall(page.read_text()) for line in block.splitlines()}
    return sorted(line for line in lines if line.startswith(start))


def specs() -> dict[str, str]:
    """The specs that pages show whole, by the name in their first line, or by their `name:`."""
    shown = [block for page in PAGES for block in _YAML.findall(page.read_text()) if "schema_version" in block]
    named = re.compile(r"^(?:# (\S+\.yaml)$|name: (\w+)$)", re.MULTILINE)
    return {next(filter(None, named.findall(text)[0])): text for text in shown}


def words(command: str) -> list[str]:
    """The arguments of a command, as a shell splits them."""
    return shlex.split(command)


def tables(page: Path, heading: str) -> list[list[list[str]]]:
    """The tables below a heading and above the next one: rows without the table's own head, as cells.

    Args:
        heading: of any level, without its marks.
    """
    _, found, below = page.read_text().partition(f"# {heading}\n")
    assert found, f"{page.name} has no heading {heading}"
    section = re.split(r"^#+ ", below, maxsplit=1, flags=re.MULTILINE)[0]
    parts = [part.splitlines() for part in section.strip().split("\n\n")]
    return [[_cells(row) for row in rows[2:]] for rows in parts if rows and rows[0].startswith("|")]


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().removeprefix("|").removesuffix("|").split("|")]
