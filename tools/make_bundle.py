"""Write a synthetic models root: official layout, file names and keys, weights made from a seed.

python -m tools.make_bundle --out DIR [--seed 0] [--model DPT_Large]

Latencies measured with it count; outputs mean nothing. SYNTHETIC.json says so, and so does every result.
"""

from __future__ import annotations

import argparse
import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn

from fixtures import registry
from fixtures.bundle import FOLDERS, SYNTHETIC_MARKER, Bundle
from fixtures.errors import InputError
from fixtures.folders import new_folder
from fixtures.models import Family, family
from fixtures.records import SyntheticMarker
from fixtures.results import write_atomically
from fixtures.synthetic import synthetic_tensor
from tools import command_line


def main() -> int:
    """Parse the command line, write the bundle, print where it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to create")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", action="append", help="only this model; may be repeated (default: the baseline)")
    arguments = parser.parse_args()
    files = make_bundle(arguments.out, arguments.seed, arguments.model)
    total_mb = sum((arguments.out / name).stat().st_size for name in files) / 1024**2
    print(f"{arguments.out}: synthetic bundle, {len(files)} checkpoints, {total_mb:.0f} MiB")
    return 0


def make_bundle(out: Path, seed: int, models: list[str] | None = None) -> dict[str, str]:
    """Create the bundle; the folder appears when it is whole. Returns path → sha256 of its checkpoints.

    Args:
        models: names as in a spec; the baseline when None.

    Raises:
        InputError: the folder exists, cannot be written, has no room, or a model is unknown.
    """
    chosen = _chosen(models)
    with new_folder(out, "the bundle") as beside:
        return _write(beside, chosen, seed)


def _chosen(models: list[str] | None) -> list[tuple[Family, str]]:
    known = {name: branches for branches in map(family, registry.names("models")) for name in branches.models}
    if models is None:
        return [(branches, name) for name, branches in known.items() if branches.models[name].in_baseline]
    for name in models:
        if name not in known:
            raise InputError(f"--model {name}", "model=unknown", f"one of {', '.join(known)}", "Write one of these.")
    return [(known[name], name) for name in models]


def _write(root: Path, chosen: list[tuple[Family, str]], seed: int) -> dict[str, str]:
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True)
    bundle, files = Bundle(root), {}
    for branches, name in chosen:
        # Any size will do: official keys and shapes do not depend on it.
        with torch.device("meta"):
            module = branches.build(name, 384, 384)
        path = root / branches.models[name].checkpoint
        _save(_synthetic_state_dict(module, seed), path)
        files[branches.models[name].checkpoint] = bundle.weights(path).sha256
    marker = SyntheticMarker(seed=seed, warning="random weights: outputs mean nothing", files=files)
    write_atomically(root / SYNTHETIC_MARKER, marker.model_dump_json(indent=2) + "\n")
    return files


def _save(state_dict: dict[str, Tensor], path: Path) -> None:
    try:
        torch.save(state_dict, path)
    except RuntimeError:  # torch's writer, which keeps to itself what the operating system said
        raise OSError(errno.EIO, f"{path.name} could not be written whole") from None


def _synthetic_state_dict(module: nn.Module, seed: int) -> dict[str, Tensor]:
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    with ThreadPoolExecutor() as pool:  # numpy draws random numbers without the interpreter's lock
        arrays = pool.map(lambda key: synthetic_tensor(key, shapes[key], seed), shapes)
        return {key: torch.from_numpy(array) for key, array in zip(shapes, arrays, strict=True)}


if __name__ == "__main__":
    command_line.run(main)
