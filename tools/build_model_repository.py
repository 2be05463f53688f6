"""Build a model repository for Triton from exported files that passed their gate.

python -m tools.build_model_repository --onnx-dir models/optimized
python -m tools.build_model_repository --onnx-dir models/optimized --spec SPEC --out model_repository [--choice FILE]

An image branch becomes three models: preprocess (raw frames to the file's inputs), the published file, and the ensemble
of both. A branch of sound or text becomes two: the file, and an ensemble around it, because its clients send the file's
inputs. With --choice, the repository holds the branches of a choice.json (tools.choose_branches), at their batch and
precision class, for frames of the size that was measured. Without --spec, it holds every file that is published under
--onnx-dir. Needs neither torch nor a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from fixtures.cases import Export, served_exports_of
from fixtures.decision.deployment import chosen_exports, require_measured_weights
from fixtures.errors import InputError
from fixtures.spec import Dtype, Spec, load_spec
from fixtures.spec.rules import MAX_BATCH
from fixtures.triton.branches import ServedBranch, served_branch
from fixtures.triton.config import ServedOn
from fixtures.triton.published_spec import spec_of_published
from fixtures.triton.readme import docker_line
from fixtures.triton.repository import write_repository
from tools import command_line


def main() -> int:
    """Parse the command line, write the repository, print its branches and the command that serves it."""
    arguments = _parsed()
    spec, left_out = _spec(arguments)
    exports, skipped = _selected(spec, arguments)
    branches = [served_branch(export, arguments.onnx_dir, spec.target.triton) for export in exports]
    if arguments.choice is not None:
        held = {branch.export.id: branch.record.weights.sha256 for branch in branches}
        require_measured_weights(arguments.choice, spec, held)
    repository = write_repository(arguments.out, branches, _served_on(arguments.device), arguments.fused)
    for name in skipped:
        print(f"skipped {name}: optional, and not exported")
    for name, reason in left_out.items():
        print(f"skipped {name}: {reason}")
    for branch in branches:
        print(_described(branch))
        for remark in branch.tuning_remarks(_served_on(arguments.device)):
            print(f"  {remark}")
    print(f"wrote {arguments.out}, for Triton {repository.triton} or newer. Serve it from inside that folder:")
    print(docker_line(repository))
    return 0


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnx-dir", type=Path, default=Path("models/optimized"), help="where files are published")
    parser.add_argument(
        "--spec", type=Path, help="spec of the files, with serving options (default: every published file)"
    )
    parser.add_argument("--out", type=Path, default=Path("model_repository"), help="folder to create")
    parser.add_argument("--choice", type=Path, help="choice.json: serve only the chosen branches")
    parser.add_argument("--batch", type=int, action="append", help="only this batch size; may be repeated")
    parser.add_argument("--frame", metavar="HxW", help="size of the frames that clients send, such as 720x1280")
    parser.add_argument("--fused", action="store_true", help="also write preprocess and model as one file")
    parser.add_argument("--dtype", help="fp32, tf32 or fp16, instead of the spec's")
    parser.add_argument("--device", default="cuda", help="device of the instances: cuda (default) or cpu")
    return parser.parse_args()


def _spec(arguments: argparse.Namespace) -> tuple[Spec, dict[str, str]]:
    """The named spec, or one of every published file; and the files that it leaves out, with the reason."""
    if arguments.spec is not None:
        return load_spec(arguments.spec), {}
    if arguments.choice is not None:
        raise InputError("--spec", "value missing beside --choice", "the spec of the choice", "Name it.")
    return spec_of_published(arguments.onnx_dir)


def _selected(spec: Spec, arguments: argparse.Namespace) -> tuple[list[Export], list[str]]:
    """The exports to serve, with the frame size of `--frame`; and the names of optional branches without a file."""
    if arguments.dtype not in (None, *get_args(Dtype)):
        rule = f"one of {', '.join(get_args(Dtype))}"
        raise InputError("--dtype", f"value={arguments.dtype!r}", rule, "Write one of these.")
    frame = None if arguments.frame is None else command_line.frame_of(arguments.frame)
    exports, skipped = [], []
    for export in _wanted(spec, arguments):
        if not arguments.choice and export.variant.optional and not (arguments.onnx_dir / export.file).exists():
            skipped.append(export.branch)
            continue
        variant = export.variant
        if frame and variant.kind == "image":
            variant = variant.model_copy(update={"frame": frame})
        exports.append(replace(export, variant=variant))
    if not exports:
        where = str(arguments.spec or arguments.onnx_dir)
        raise InputError(where, "branches=0", "at least one exported variant", "Export one first.")
    return exports, skipped


def _wanted(spec: Spec, arguments: argparse.Namespace) -> list[Export]:
    """The exports of the spec, at the batches of `--batch` if given; or those of a choice."""
    if arguments.spec is None:
        exports = served_exports_of(spec, arguments.dtype)
        return [export for export in exports if arguments.batch is None or export.batch in arguments.batch]
    if arguments.choice is None:
        return _with_batches(served_exports_of(spec, arguments.dtype), arguments.batch)
    beside = {"--batch": arguments.batch, "--dtype": arguments.dtype, "--frame": arguments.frame}
    return chosen_exports(arguments.choice, spec, beside)


def _with_batches(exports: Sequence[Export], batches: list[int] | None) -> list[Export]:
    """The same variants at these batch sizes; None keeps those of the spec."""
    if batches is None:
        return list(exports)
    for batch in batches:
        if not 1 <= batch <= MAX_BATCH:
            raise InputError("--batch", f"value={batch}", f"1 to {MAX_BATCH}", "Write one that was exported.")
    one_each = {export.variant.name: export for export in exports}.values()
    return [replace(export, batch=batch) for export in one_each for batch in dict.fromkeys(batches)]


def _served_on(device: str) -> ServedOn:
    if device not in get_args(ServedOn):
        raise InputError("--device", f"value={device!r}", "cuda or cpu", "Write one of these.")
    return device  # type: ignore[return-value]


def _described(branch: ServedBranch) -> str:
    inputs, outputs = (
        ", ".join(f"{tensor.name} {tensor.dtype} {list(tensor.shape)}" for tensor in tensors)
        for tensors in (branch.inputs, branch.outputs)
    )
    return f"{branch.name}: {inputs} -> {outputs}"


if __name__ == "__main__":
    command_line.run(main)
