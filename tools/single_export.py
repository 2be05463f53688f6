"""What the tools that export one branch share: arguments, the spec that they make, and the way through the gate."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from fixtures import registry, target
from fixtures.cases import SUFFIXES, Export, exports_of
from fixtures.declarations import declarations
from fixtures.errors import InputError
from fixtures.export.accuracy import ceiling_remarks
from fixtures.export.gate import Gate, GateError, GateSettings, reference_for
from fixtures.export.graph_checks import graph_remarks
from fixtures.manifest import publication_of
from fixtures.models import family_named
from fixtures.records import FileFormat, FileRecord
from fixtures.sessions.options import Options
from fixtures.sessions.setup import Setup, choose_device, setup_of
from fixtures.spec import Frame, spec_from
from fixtures.subject import locate_checkpoint

_OF_THE_VARIANT = ("family", "model", "tower", "height", "width", "duration_s", "tokens", "classes", "weights")


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The arguments of every such tool; a tool adds its own, and reads them with `parsed`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    parser.add_argument("--models-root", help="folder of the checkpoints (default: DP_MODELS_ROOT)")
    parser.add_argument("--weights", help="file under it, instead of the official name")
    parser.add_argument("--triton", default=target.OLDEST, help=f"release to export for (default: {target.OLDEST})")
    parser.add_argument("--frames", help="folder of photographs to judge on")
    parser.add_argument("--audio", help="folder of WAV files to judge on")
    parser.add_argument("--prompts", help="text file with a prompt a line to judge on")
    parser.add_argument("--offline", action=argparse.BooleanOptionalAction, default=True, help="refuse the network")
    return parser


def parsed(parser: argparse.ArgumentParser, file_format: FileFormat) -> argparse.Namespace:
    """The arguments of this process, with the family.

    Raises:
        InputError: the model does not tell its family, or `--out` is not named as files of the format are.
    """
    arguments = parser.parse_args()
    out, suffix = arguments.out, SUFFIXES[file_format]
    if out.suffix != suffix:
        next_step = f"Write {out.with_suffix(suffix).name}." if out.name else "Name a file."
        raise InputError(f"--out {out}", f"suffix={out.suffix!r}", suffix, next_step)
    arguments.family = arguments.family or _family_of(arguments.model)
    return arguments


def export_one(
    arguments: argparse.Namespace,
    file_format: FileFormat,
    tool: str,
    frame: Frame | None = None,
    target_python: str | None = None,
    external_data: bool = False,
) -> int:
    """Export one branch through the gate and print what was published; returns the exit code, 1 if the gate fails.

    Args:
        tool: module of the tool, for the command that judges the file again.
        frame: size of the frames that a package takes.
    """
    setup = _setup(arguments, file_format, frame, target_python)
    export = exports_of(setup.spec)[0]
    folder, name = publication_of(arguments.out, arguments.family, arguments.onnx_dir)
    settings = GateSettings(
        folder=folder,
        name=name,
        triton=setup.spec.target.triton,
        on_cuda=setup.device.type == "cuda",
        target_python=Path(target_python) if target_python else None,
        reproduce=shlex.join(["python", "-m", tool, *sys.argv[1:]]),
        external_data=external_data,
    )
    try:
        record = _publish(setup, export, settings)
    except GateError as error:
        print(f"{arguments.out} is not published:\n{error}", file=sys.stderr)
        return 1
    print(f"published {arguments.out}: {record.size_bytes / 1024**2:.1f} MiB, sha256 {record.sha256}")
    for remark in graph_remarks(record):
        print(f"  {remark}")
    for parity in record.parity:
        for remark in ceiling_remarks(parity.dtype, parity.ceiling):
            print(f"  {remark}")
    for hop in record.waterfall:
        print(f"  {hop.hop}: error {hop.error:.2e}, of which this hop {hop.added:.2e}")
    return 0


def _family_of(model: str) -> str:
    """The one family that lists a model of this name. Raises InputError where there is none, or several."""
    families = registry.names("models")
    found = [name for name in families if model in family_named(name).models]
    if len(found) != 1:
        what = f"value missing for --model {model}"
        raise InputError("--family", what, f"one of {', '.join(found or families)}", "Write the family.")
    return found[0]


def _setup(
    arguments: argparse.Namespace, file_format: FileFormat, frame: Frame | None, target_python: str | None
) -> Setup:
    """A spec of one variant, checked by the rules of every spec."""
    variant = {"name": "branch", **{key: getattr(arguments, key) for key in _OF_THE_VARIANT}}
    if frame:
        variant["frame"] = frame.model_dump()
    where = "command line"
    spec = spec_from(
        {
            "schema_version": 1,
            "name": "command_line",
            "dtype": arguments.dtype,
            "runtimes": [name for name, runtime in declarations().items() if runtime.file],
            "formats": [file_format],
            **({"onnx_graph": arguments.onnx_graph} if file_format == "onnx" else {}),
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
        target_python=target_python,
    )
    device_type, why = choose_device(arguments.device)
    return setup_of(options, spec, Path(where), why, device_type)


def _publish(setup: Setup, export: Export, settings: GateSettings) -> FileRecord:
    variant = export.variant
    setup.require_usable([variant])
    weights = setup.bundle.weights(locate_checkpoint(variant, setup.bundle))
    reference = reference_for(export, weights.path, setup.content, settings.on_cuda)
    gate = Gate(export, reference, weights, settings)
    try:
        return gate.publish()
    finally:
        gate.close()
