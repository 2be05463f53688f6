"""Plant faults in exported files, or export honest ones, and print what the gate says; exit 1 if it is wrong.

python -m tools.prove_gate faults --models-root DIR [--variants RAFT,CLIP_text] [--dtype fp16] [--device cuda]
python -m tools.prove_gate networks [--variants swin_t] [--dtype fp16] [--verdicts FILE]
python -m tools.prove_gate yardsticks --models-root DIR [--spec specs/baseline_gpu.yaml]

`faults` judges one small branch of every family with one planted fault at a time: each has to be judged, and refused.
`networks` judges networks of torchvision and timm with random weights: each file has to pass.
`yardsticks` prints torch's own error on photographs, music or prompts, by which files are judged.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fixtures.cases import Export
from fixtures.export.accuracy import relative_error
from fixtures.export.parity_inputs import parity_inputs
from fixtures.export.reference import Reference
from fixtures.proof.prove import Proof, Verdict
from fixtures.proof.tables import fault_tables, is_wrong, network_table
from fixtures.proof.verdict_file import Verdicts
from fixtures.records import Dtype, Provider
from fixtures.sessions.options import Options
from fixtures.sessions.setup import SPECS, Setup, choose_device, require_variants, setup_of, variant_names
from fixtures.spec import Variant, load_spec
from fixtures.subject import locate_checkpoint
from tools import command_line
from tools.make_bundle import make_bundle

_SPECS = {
    "faults": SPECS / "prove_faults.yaml",
    "networks": SPECS / "prove_networks.yaml",
    "yardsticks": SPECS / "baseline_gpu.yaml",
}


def main() -> int:
    """Parse the command line, judge, print the tables."""
    arguments = _parsed()
    if arguments.what == "yardsticks":
        return _print_yardsticks(arguments)
    judge = _faults if arguments.what == "faults" else _networks
    verdicts = Verdicts(arguments.verdicts, are_of_faults=arguments.what == "faults")
    for verdict in judge(arguments):
        _report(verdict)
        verdicts.add(verdict)
    print()
    for line in fault_tables(verdicts.all) if arguments.what == "faults" else network_table(verdicts.all):
        print(line)
    wrong = sum(map(is_wrong, verdicts.all))
    unjudged = sum(not verdict.is_judged for verdict in verdicts.all)
    print(f"{len(verdicts.all)} files, {wrong} judged wrongly" + (f", {unjudged} not judged" if unjudged else ""))
    return 1 if wrong or (unjudged and arguments.what == "faults") else 0


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=list(_SPECS), default="faults")
    parser.add_argument("--models-root", help="folder of checkpoints, except for `networks` (default: DP_MODELS_ROOT)")
    parser.add_argument("--spec", type=Path, help="branches to judge (default: of this suite)")
    parser.add_argument("--variants", help="names of the spec, with commas (default: all)")
    parser.add_argument("--dtype", action="append", choices=("fp32", "fp16"), help="of the files (default: both)")
    parser.add_argument("--device", default="cpu", help="auto, cuda or cpu: where files are judged (default: cpu)")
    parser.add_argument("--verdicts", type=Path, help="file to add verdicts to; the table has those it holds too")
    return parser.parse_args()


def _faults(arguments: argparse.Namespace) -> Iterator[Verdict]:
    setup = _setup(arguments.spec or _SPECS["faults"], arguments, arguments.models_root)
    for variant in setup.spec.variants:
        if setup.wants(variant):
            setup.require_usable([variant])
            yield from _judged(setup, variant, arguments, with_faults=True)


def _networks(arguments: argparse.Namespace) -> Iterator[Verdict]:
    """Each network with random weights of its own, which are removed before the next one's are made."""
    spec = load_spec(arguments.spec or _SPECS["networks"])
    require_variants(spec, arguments.variants)
    wanted = None if arguments.variants is None else variant_names(arguments.variants)
    for variant in spec.variants:
        if wanted is None or variant.name in wanted:
            with tempfile.TemporaryDirectory() as folder:
                root, alone = Path(folder) / "root", Path(folder) / "spec.yaml"
                alone.write_text(_spec_of(variant))
                make_bundle(root, 0, specs=[alone])
                setup = _setup(alone, arguments, str(root))
                setup.require_usable(setup.spec.variants)
                yield from _judged(setup, setup.spec.variants[0], arguments, with_faults=False)


def _print_yardsticks(arguments: argparse.Namespace) -> int:
    setup = _setup(arguments.spec or _SPECS["yardsticks"], arguments, arguments.models_root)
    dtypes: tuple[Dtype, ...] = tuple(arguments.dtype or ("fp32", "fp16"))
    print(f"| branch | {' | '.join(dtypes)} |\n|---|{'---|' * len(dtypes)}")
    for variant in filter(setup.wants, setup.spec.variants):
        setup.require_usable([variant])
        natural = [given for given in parity_inputs(setup.content, variant) if given.is_natural]
        reference = Reference(variant, locate_checkpoint(variant, setup.bundle), natural)
        provider: Provider = "cuda" if setup.device.type == "cuda" else "cpu"
        errors = [max(map(relative_error, reference.outputs(provider, dtype), reference.truth)) for dtype in dtypes]
        print(f"| {variant.name} | {' | '.join(f'{error:.1e}' for error in errors)} |", flush=True)
    return 0


def _spec_of(variant: Variant) -> str:
    """A spec of one variant; JSON is YAML."""
    own = variant.model_dump(mode="json", exclude_unset=True)
    spec = {"schema_version": 1, "name": "network", "dtype": "fp32", "runtimes": ["onnxruntime"], "variants": [own]}
    return json.dumps(spec)


def _setup(spec: Path, arguments: argparse.Namespace, models_root: str | None) -> Setup:
    device_type, why = choose_device(arguments.device)
    options = Options(models_root=models_root, variants=None if arguments.what == "networks" else arguments.variants)
    return setup_of(options, load_spec(spec), spec, why, device_type)


def _judged(setup: Setup, variant: Variant, arguments: argparse.Namespace, with_faults: bool) -> Iterator[Verdict]:
    weights = setup.bundle.weights(locate_checkpoint(variant, setup.bundle))
    reference = Reference(variant, weights.path, parity_inputs(setup.content, variant))
    for dtype in arguments.dtype or ("fp32", "fp16"):
        with tempfile.TemporaryDirectory() as folder:
            on_cuda = setup.device.type == "cuda"
            proof = Proof(Export(variant, 1, dtype), reference, weights, Path(folder), on_cuda)
            yield from proof.faults() if with_faults else proof.honest()


def _report(verdict: Verdict) -> None:
    said = "refused" if verdict.refused else "passed"
    wrong = ", WRONG" if is_wrong(verdict) else ""
    where = f"{verdict.variant} {verdict.dtype} on {verdict.provider}"
    fault = f"{verdict.fault} {verdict.place}".strip()
    print(f"{where}: {fault}: {said}{wrong}: error {verdict.error:.2g}, budget {verdict.budget:.2g}", flush=True)


if __name__ == "__main__":
    command_line.run(main)
