"""Render a run as one HTML page: what to deploy and why, then everything that was measured.

python -m tools.render_report RUN [--compare BASELINE] [--choice choice.json] [--manifest manifest.json] -o report.html

RUN is a run's folder, or one of its files. The page contains its charts and every timed round, and makes no network
request: it can be mailed, archived and printed. Without --choice, the page shows the choice.json in the run's folder,
or makes a new choice with the budgets that the run was measured with.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fixtures.report import read_material, render
from fixtures.results.run_folder import write_output
from tools import command_line


def main() -> int:
    """Read the run and write its page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or one of its files")
    parser.add_argument(
        "--compare", type=Path, metavar="BASELINE", help="run, or folder of repeated runs, to compare with"
    )
    parser.add_argument("--choice", type=Path, metavar="FILE", help="choice.json of this run (tools.choose_branches)")
    parser.add_argument("--manifest", type=Path, metavar="FILE", help="manifest.json of the exported files")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="HTML file to write")
    arguments = parser.parse_args()
    material = read_material(arguments.run, arguments.compare, arguments.choice, arguments.manifest)
    text = render(material)
    write_output(arguments.output, text, [arguments.run, arguments.compare, arguments.choice, arguments.manifest])
    print(f"wrote {arguments.output}: {len(material.summary.cases)} cases, {len(text.encode()) / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    command_line.run(main)
