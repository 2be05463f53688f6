"""Compile one branch into an AOTInductor package and publish it; exit code 1 if the gate fails.

python -m tools.export_package --model MiDaS_small --height 256 --width 256 --dtype fp16 --out FILE.pt2
python -m tools.export_package --model raft_small --h 256 --w 256 --frame 720x1280 --out FILE.pt2 --models-root DIR

A package is for the torch and the device of this machine. Code and gate are those of `pytest export_tests`.
"""

from __future__ import annotations

from tools import command_line, single_export


def main() -> int:
    """Export one branch and print what was published; returns the exit code."""
    parser = single_export.parser_of(__doc__)
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu: what to compile for, and to judge on")
    parser.add_argument("--frame", metavar="HxW", help="size of the frames that clients send (default: the branch's)")
    arguments = single_export.parsed(parser, "aoti")
    frame = None if arguments.frame is None else command_line.frame_of(arguments.frame)
    return single_export.export_one(arguments, "aoti", "tools.export_package", frame=frame)


if __name__ == "__main__":
    command_line.run(main)
