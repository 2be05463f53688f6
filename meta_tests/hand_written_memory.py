"""MiDaS_small at batch 8 in fp16 without the suite's runtimes and memory pass: MiB that NVML sees it use on the GPU.

`python -m meta_tests.hand_written_memory CHECKPOINT` prints what loading and then eleven calls have added to the
context. The memory pass is held to these figures.
"""

from __future__ import annotations

import sys

import pynvml
import torch

from fixtures.models import family_named
from fixtures.spec import Variant

MIB = 1024**2


def main(checkpoint: str) -> str:
    """Measure, and return the two figures."""
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)

    def used_mb() -> float:
        torch.cuda.synchronize()
        return float(pynvml.nvmlDeviceGetMemoryInfo(handle).used / MIB)

    held = torch.empty(1, device="cuda")
    context = used_mb()
    midas = family_named("midas")
    variant = Variant(name="v", family="midas", model="MiDaS_small", height=256, width=256)
    module = midas.build(variant).eval()
    module.load_state_dict(torch.load(checkpoint, weights_only=True))
    midas.finalize(module, variant)
    module = module.half().cuda().to(memory_format=torch.channels_last)
    frames = [torch.randint(0, 255, (8, 256, 256, 3), dtype=torch.uint8, device="cuda") for _ in range(4)]
    loaded = used_mb()
    scale = torch.full((1, 3, 1, 1), 1 / 255, device=held.device)
    with torch.inference_mode():
        for index in range(11):
            module((frames[index % 4].permute(0, 3, 1, 2).float() * scale - scale).half()).float()
    return f"{loaded - context} {used_mb() - context}"


if __name__ == "__main__":
    sys.stdout.write(main(sys.argv[1]))
