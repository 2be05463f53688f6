"""Export one branch as ONNX and publish it with its entry in manifest.json; exit code 1 if the gate fails.

python -m tools.export_onnx --family midas --model DPT_Hybrid --height 384 --width 384 --out FILE --models-root DIR
python -m tools.export_onnx --model-name MiDaS_small --h 256 --w 256 --out models/optimized/midas/midas_small_256.onnx

Code and gate are those of `pytest export_tests`.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from fixtures import registry, target
from fixtures.cases import Export, exports_of
from fixtures.declarations import declarations
from fixtures.errors import InputError
from fixtures.export.accuracy import ceiling_remarks
from fixtures.export.gate import Gate, GateError, GateSettings
from fixtures.export.parity_inputs import parity_inputs
from fixtures.export.reference import Reference
from fixtures.manifest import publication_of
from fixtures.models import family_named
from fixtures.records import FileRecord
from fixtures.sessions.options import Options
from fixtures.sessions.setup import Setup, choose_device, setup_of
from fixtures.spec import spec_from
from fixtures.subject import locate_checkpoint
from tools import command_line

_OF_THE_VARIANT = ("family", "model", "tower", "height", "width", "duration_s", "tokens", "classes", "weights")


def main() -> int:
    """Export one branch and print what was published; returns the exit code."""
    arguments = _parsed()
    setup = _setup(arguments)
    export = exports_of(setup.spec)[0]
    try:
        record = _publish(setup, export, arguments)
    except GateError as error:
        print(f"{arguments.out} is not published:\n{error}", file=sys.stderr)
        return 1
    print(f"published {arguments.out}: {record.size_bytes / 1024**2:.1f} MiB, sha256 {record.sha256}")
    for parity in record.parity:
        for remark in ceiling_remarks(parity.dtype, parity.ceiling):
            print(f"  {remark}")
    for hop in record.waterfall:
        print(f"  {hop.hop}: error {hop.error:.2e}, of which this hop {hop.added:.2e}")
    return 0


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", help="of the model (default: the one that has a model of this name)")
    parser.add_argument("--model", "--model-name", required=True)
    parser.add_argument("--tower", help="of a model that has several: image, audio or text")
    parser.add_argument("--height", "--h", type=int, help="of an image model's input in pixels")
    parser.add_argument("--width", "--w", type=int)
    parser.add_argument("--duration-s", type=int, help="of an audio model's waveform in seconds")
    parser.add_argument("--tokens", type=int, help="of a text model's rows")
    parser.add_argument("--classes", type=int, help="of a classification network (default: as its weights have)")
    parser.add_argument("--batch", type=int, default=1)
    dtype = parser.add_mutually_exclusive_group()
    dtype.add_argument("--dtype", default="fp32", help="precision class: fp32, tf32 or fp16 (default: fp32)")
    dtype.add_argument("--precision", dest="dtype", default=argparse.SUPPRESS, help="deprecated alias of --dtype")
    parser.add_argument("--out", type=Path, required=True, help="file to publish")
    parser.add_argument(
        "--onnx-dir",
        type=Path,
        help="folder around FILE whose manifest.json gets the entry (default: models/optimized in its path, else the "
        "nearest one with a manifest, else the folder around that of the family, else the folder of FILE)",
    )
    parser.add_argument("--external-data", action="store_true", help="write the weights beside it, to FILE.data")
    parser.add_argument("--models-root", help="folder of the checkpoints (default: DP_MODELS_ROOT)")
    parser.add_argument("--weights", help="file under it, instead of the official name")
    parser.add_argument("--triton", default=target.OLDEST, help=f"release to export for (default: {target.OLDEST})")
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu: where to judge beside the CPU")
    parser.add_argument("--frames", help="folder of photographs to judge on")
    parser.add_argument("--audio", help="folder of WAV files to judge on")
    parser.add_argument("--prompts", help="text file with a prompt a line to judge on")
    parser.add_argument("--target-python", help="interpreter whose ONNX Runtime has to load the file too")
    parser.add_argument("--offline", action=argparse.BooleanOptionalAction, default=True, help="refuse the network")
    arguments = parser.parse_args()
    arguments.family = arguments.family or _family_of(arguments.model)
    return arguments


def _family_of(model: str) -> str:
    """The one family that lists a model of this name. Raises InputError where there is none, or several."""
    families = registry.names("models")
    found = [name for name in families if model in family_named(name).models]
    if len(found) != 1:
        what = f"value missing for --model {model}"
        raise InputError("--family", what, f"one of {', '.join(found or families)}", "Write the family.")
    return found[0]


def _setup(arguments: argparse.Namespace) -> Setup:
    """A spec of one variant, checked by the rules of every spec."""
    variant = {"name": "branch", **{key: getattr(arguments, key) for key in _OF_THE_VARIANT}}
    where = "command line"
    spec = spec_from(
        {
            "schema_version": 1,
            "name": "command_line",
            "dtype": arguments.dtype,
            "runtimes": [name for name, runtime in declarations().items() if runtime.file],
            "batches": [arguments.batch],
            "target": {"triton": arguments.triton},
            "variants": [variant],
        },
        where,
    )
    options = Options(
        models_root=arguments.models_root,
        offline=arguments.offline,
        frames=arguments.frames,
        audio=arguments.audio,
        prompts=arguments.prompts,
        target_python=arguments.target_python,
    )
    device_type, why = choose_device(arguments.device)
    return setup_of(options, spec, Path(where), why, device_type)


def _publish(setup: Setup, export: Export, arguments: argparse.Namespace) -> FileRecord:
    variant = export.variant
    setup.require_usable([variant])
    weights = setup.bundle.weights(locate_checkpoint(variant, setup.bundle))
    folder, name = publication_of(arguments.out, arguments.family, arguments.onnx_dir)
    reference = Reference(variant, weights.path, parity_inputs(setup.content, variant))
    settings = GateSettings(
        folder=folder,
        name=name,
        triton=setup.spec.target.triton,
        on_cuda=setup.device.type == "cuda",
        target_python=Path(arguments.target_python) if arguments.target_python else None,
        reproduce=shlex.join(["python", "-m", "tools.export_onnx", *sys.argv[1:]]),
        external_data=arguments.external_data,
    )
    gate = Gate(export, reference, weights, settings)
    try:
        return gate.publish()
    finally:
        gate.close()


if __name__ == "__main__":
    command_line.run(main)
