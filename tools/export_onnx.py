"""Export one branch as ONNX and publish it with its entry in manifest.json; exit code 1 if the gate fails.

python -m tools.export_onnx --family midas --model DPT_Hybrid --height 384 --width 384 --out FILE --models-root DIR
python -m tools.export_onnx --model-name MiDaS_small --h 256 --w 256 --out models/optimized/midas/midas_small_256.onnx

Code and gate are those of `pytest export_tests`.
"""

from __future__ import annotations

from tools import command_line, single_export


def main() -> int:
    """Export one branch and print what was published; returns the exit code."""
    parser = single_export.parser_of(__doc__)
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu: where to judge beside the CPU")
    parser.add_argument(
        "--onnx-graph", default="portable", help="portable, contrib or cuda: `onnx_graph` of a spec (default: portable)"
    )
    parser.add_argument("--external-data", action="store_true", help="write the weights beside it, to FILE.data")
    parser.add_argument("--target-python", help="interpreter whose ONNX Runtime has to load the file too")
    arguments = single_export.parsed(parser, "onnx")
    return single_export.export_one(
        arguments,
        "onnx",
        "tools.export_onnx",
        target_python=arguments.target_python,
        external_data=arguments.external_data,
    )


if __name__ == "__main__":
    command_line.run(main)
