"""Measure the options of ONNX Runtime for published files, and enter in manifest.json what is faster and right.

python -m tools.tune_files --onnx-dir models/optimized --spec SPEC [--variants NAME,NAME] [--device cuda]

For each ONNX file of the spec: every combination of options that the spec's Triton release honours, in one process;
then the fastest two and the defaults in turn, in several processes. Options replace the defaults only where they are
proved faster, by the rule of tools.compare_runs, and only where the file passes its gate under them. Bench, gate and
build_model_repository then run the file with them. Measurements are kept in tuning.jsonl beside the manifest: the
same command after an interruption goes on; remove the file to measure again.
"""

from __future__ import annotations

import argparse
import sys

from fixtures.cases import Export
from fixtures.errors import InputError
from fixtures.records import TunedCandidate, TuningRecord
from fixtures.sessions.options import Options
from fixtures.sessions.setup import Setup, make_setup
from fixtures.tuning.tuner import Tuner, options_text
from tools import command_line

_MOST_PROCESSES = 100  # judgment: hours for each file, and refuses a slip of the keyboard
_DEFAULT_SPECS = {"cuda": "onnxruntime_gpu.yaml", "cpu": "export.yaml"}


def main() -> int:
    """Tune the files of a spec and print what was found of each; returns the exit code."""
    arguments = _parsed()
    setup = make_setup(
        Options(**{key: value for key, value in vars(arguments).items() if key != "processes"}), _DEFAULT_SPECS
    )
    exports = _exports(setup)
    setup.require_usable([export.variant for export in exports])
    tuner = Tuner(
        spec=setup.spec,
        bundle=setup.bundle,
        content=setup.content,
        onnx_dir=setup.onnx_dir,
        device=setup.device,
        offline=setup.options.offline,
        processes=arguments.processes,
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )
    for export in exports:
        print(_described(export, tuner.tune(export)), flush=True)
    return 0


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = Options()
    parser.add_argument("--spec", help="spec of the files (default: onnxruntime_gpu.yaml, or export.yaml on a CPU)")
    parser.add_argument("--variants", metavar="NAME,NAME", help="only these variants of the spec")
    parser.add_argument("--dtype", help="fp32, tf32 or fp16, instead of the spec's")
    parser.add_argument("--onnx-dir", default=defaults.onnx_dir, help="where the files are published")
    parser.add_argument("--processes", type=int, default=3, help="processes to compare in (default: 3)")
    parser.add_argument("--models-root", help="folder of the checkpoints (default: DP_MODELS_ROOT)")
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu: where to measure")
    parser.add_argument("--frames", help="folder of photographs to measure and judge on")
    parser.add_argument("--audio", help="folder of WAV files to measure and judge on")
    parser.add_argument("--prompts", help="text file with a prompt a line to measure and judge on")
    parser.add_argument("--offline", action=argparse.BooleanOptionalAction, default=True, help="refuse the network")
    arguments = parser.parse_args()
    if not 1 <= arguments.processes <= _MOST_PROCESSES:
        rule = f"1 to {_MOST_PROCESSES}"
        raise InputError("--processes", f"value={arguments.processes}", rule, "Write 3 or more for a verdict.")
    return arguments


def _exports(setup: Setup) -> list[Export]:
    """The ONNX files of a spec; not those of optional variants that were not exported. Raises InputError for none."""
    exports = [
        export
        for export in setup.exports()
        if export.format == "onnx" and not (export.variant.optional and not (setup.onnx_dir / export.file).exists())
    ]
    if not exports:
        where = str(setup.spec_path)
        raise InputError(where, "ONNX files=0", "at least one to tune", "Add `onnx` to its `formats`, and export it.")
    return exports


def _described(export: Export, tuning: TuningRecord) -> str:
    """A table of what was measured of a file, and what it runs with from now on."""
    lines = [
        f"{export.file} in {tuning.dtype} on {tuning.device}, ONNX Runtime {tuning.onnxruntime}, "
        f"options of Triton {tuning.triton}:",
        *(f"  {_row(one)}" for one in tuning.candidates),
        f"  runs with: {options_text(tuning.options)}",
    ]
    return "\n".join(lines)


def _row(one: TunedCandidate) -> str:
    time = "no time" if one.p50_ms is None else f"{one.p50_ms:.3f} ms"
    parts = [options_text(one.options), f"p50 {time} in {one.processes} process(es)"]
    if one.ratio is not None and one.interval is not None:
        parts.append(f"{one.ratio:.3f} times the defaults ({one.interval[0]:.3f} to {one.interval[1]:.3f})")
    parts += [part for part in (one.verdict, one.reason) if part]
    return "; ".join(parts)


if __name__ == "__main__":
    command_line.run(main)
