"""Write what is generated from the models: the JSON Schemas, docs/columns.md, and the tables of docs/spec.md.

python -m tools.write_schemas [--out specs/schema] [--docs docs]

The first line of each YAML file in specs/ names its schema, so that an editor checks the file while it is typed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fixtures.errors import system_errors
from fixtures.field_tables import columns_page, with_field_tables
from fixtures.files import write_atomically
from fixtures.schemas import DESCRIBED, schema_text
from tools import command_line

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Parse the command line, write, print where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "specs/schema", help="folder of schemas (default: %(default)s)"
    )
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of pages (default: %(default)s)")
    arguments = parser.parse_args()
    out, docs = arguments.out, arguments.docs
    with system_errors(str(out), "folder", "a folder to write to", "Choose another, or change its permissions."):
        out.mkdir(parents=True, exist_ok=True)
        for name in DESCRIBED:
            write_atomically(out / f"{name}.schema.json", schema_text(name))
    with system_errors(str(docs), "folder", "a folder with spec.md that can be written", "Name another with --docs."):
        write_atomically(docs / "columns.md", columns_page())
        write_atomically(docs / "spec.md", with_field_tables((docs / "spec.md").read_text()))
    print(f"wrote {len(DESCRIBED)} schemas to {out}, columns.md and spec.md to {docs}")
    return 0


if __name__ == "__main__":
    command_line.run(main)
