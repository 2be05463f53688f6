"""Write a synthetic models root: official layout, file names and keys, random weights from a seed.

python -m tools.make_bundle --out DIR [--seed 0] [--model DPT_Large] [--spec FILE]

Latency and memory measured with it count; outputs mean nothing. SYNTHETIC.json and every result say so.
"""

from __future__ import annotations

import argparse
import errno
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from fixtures import registry
from fixtures.errors import InputError
from fixtures.files import new_folder, sha256_of, write_atomically
from fixtures.modalities.text import DEFAULT_PROMPTS, read_prompts
from fixtures.modalities.tokenizers import HF_CACHES
from fixtures.models import Family, Layout, family_named, family_of
from fixtures.records import SyntheticMarker
from fixtures.sessions.setup import SPECS
from fixtures.spec import Variant, load_spec
from fixtures.subject import require_known
from fixtures.synthetic.files import save_checkpoint, save_tokenizer
from fixtures.synthetic.weights import RULE, RULE_VERSION, synthetic_tensor
from fixtures.weights.bundle import FOLDERS, SYNTHETIC_MARKER
from tools import command_line

# One variant for every artifact of the baseline.
_BASELINE = SPECS / "bundle.yaml"


def main() -> int:
    """Parse the command line, write the bundle, print where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to create")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", action="append", help="only this model; may be repeated (default: the baseline)")
    parser.add_argument("--spec", type=Path, action="append", help="spec whose variants get weights; may be repeated")
    arguments = parser.parse_args()
    files = make_bundle(arguments.out, arguments.seed, arguments.model, arguments.spec)
    total_mb = sum((arguments.out / name).stat().st_size for name in files) / 1024**2
    print(f"{arguments.out}: synthetic bundle, {len(files)} files, {total_mb:.0f} MiB")
    return 0


def make_bundle(
    out: Path, seed: int, models: Sequence[str] | None = None, specs: Sequence[Path] | None = None
) -> dict[str, str]:
    """Write a bundle; its folder appears when it is complete. Returns path → sha256 of its files.

    Args:
        models: names as in a spec.
        specs: specs whose variants get weights. Default: the baseline, where no models are named either.

    Raises:
        InputError: the folder exists, cannot be written, or has no room; a spec is bad; a model is unknown.
    """
    variants = [_variant_of(model) for model in models or ()]
    for path in specs or ([] if models else [_BASELINE]):
        spec = load_spec(path)
        require_known(spec)
        variants += spec.variants
    with new_folder(out, "the bundle") as beside:
        return _write(beside, variants, seed)


def _variant_of(model: str) -> Variant:
    """Any variant of a model: the weights are the same for all."""
    for name in registry.names("models"):
        family = family_named(name)
        if model in family.models:
            return family.example(model)
    known = ", ".join(model for name in registry.names("models") for model in family_named(name).models)
    raise InputError(f"--model {model}", "model=unknown", f"one of {known}", "Write one of these, or a --spec.")


def _write(root: Path, variants: Sequence[Variant], seed: int) -> dict[str, str]:
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True)
    written: dict[Path, None] = {}
    for variant in variants:
        family = family_of(variant)
        official = family.checkpoint(variant)
        path = root / (variant.weights or (official.file if official else ""))
        if path not in written:
            _save(_synthetic_state_dict(variant, family, seed), path, official.layout if official else "state_dict")
            written[path] = None
    repositories = {names[0]: None for variant in variants for names in family_of(variant).tokenizers}
    for repository in repositories:
        written.update(dict.fromkeys(save_tokenizer(root / HF_CACHES[0], repository, read_prompts(DEFAULT_PROMPTS))))
    files = {path.relative_to(root).as_posix(): sha256_of(path) for path in written}
    marker = SyntheticMarker(
        seed=seed, rule=RULE, rule_version=RULE_VERSION, warning="random weights: outputs mean nothing", files=files
    )
    write_atomically(root / SYNTHETIC_MARKER, marker.model_dump_json(indent=2) + "\n")
    return files


def _save(state_dict: dict[str, Tensor], path: Path, layout: Layout) -> None:
    try:
        save_checkpoint(state_dict, path, layout)
    except RuntimeError:  # from torch's writer, which does not pass on the operating system's reason
        raise OSError(errno.EIO, f"{path.name} could not be written whole") from None


def _synthetic_state_dict(variant: Variant, family: Family, seed: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        own = family.build(variant).state_dict()
    kept = [key for key in own if _is_computed(key, own[key], family)]
    if kept:
        computed = family.build(variant).state_dict()
        own |= {key: computed[key] for key in kept}
    drawn = [key for key in own if key not in kept]
    with ThreadPoolExecutor() as pool:  # NumPy draws random numbers without the interpreter's lock
        arrays = pool.map(lambda key: synthetic_tensor(key, tuple(own[key].shape), seed, family.conditions), drawn)
        return own | {key: torch.from_numpy(array) for key, array in zip(drawn, arrays, strict=True)}


def _is_computed(key: str, value: Tensor, family: Family) -> bool:
    """Whether the architecture determines an entry, as it does tables of indices and coordinates."""
    if key.endswith(("num_batches_tracked", "running_mean", "running_var")):
        return False
    return key.endswith(family.constants) or not value.is_floating_point()


if __name__ == "__main__":
    command_line.run(main)
