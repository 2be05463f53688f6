"""Write the JSON Schemas of specs, of the catalog, and of every file that the suite writes.

python -m tools.write_schemas [--out specs/schema]

Editors that know YAML check a spec against them while it is typed: its first line names its schema.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fixtures.errors import system_errors
from fixtures.files import write_atomically
from fixtures.schemas import DESCRIBED, schema_text
from tools import command_line

SCHEMAS = Path(__file__).parents[1] / "specs" / "schema"


def main() -> int:
    """Parse the command line, write, say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=SCHEMAS, help="folder to write to (default: specs/schema)")
    out: Path = parser.parse_args().out
    with system_errors(str(out), "folder", "a folder to write to", "Choose another, or change its permissions."):
        out.mkdir(parents=True, exist_ok=True)
        for name in DESCRIBED:
            write_atomically(out / f"{name}.schema.json", schema_text(name))
    print(f"wrote {len(DESCRIBED)} schemas to {out}")
    return 0


if __name__ == "__main__":
    command_line.run(main)
