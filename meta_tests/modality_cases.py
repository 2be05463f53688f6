"""One variant of each modality with small inputs, and the content that they are made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fixtures.modalities import Array, Content
from fixtures.modalities.audio import Audio
from fixtures.modalities.frames import frame_files
from fixtures.modalities.image import Image
from fixtures.modalities.text import DEFAULT_PROMPTS, Text
from fixtures.modalities.tokenizers import ClipTokenizer
from fixtures.records import Normalization
from fixtures.spec import Frame, Variant

RATE = 48_000
PICTURE = Variant(name="i", family="midas", model="MiDaS_small", height=64, width=96, frame=Frame(height=48, width=80))
SOUND = Variant(name="a", family="clap", model="HTSAT-tiny", tower="audio", duration_s=2)
WORDS = Variant(name="t", family="clip", model="ViT-B-32", tower="text", tokens=77)
CASES = [
    (Image(Normalization(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5), interpolation="bilinear")), PICTURE),
    (Audio(RATE), SOUND),
    (Text(ClipTokenizer()), WORDS),
]


def content(root: Path = Path("nowhere"), audio: tuple[Path, ...] = (), prompts: Path = DEFAULT_PROMPTS) -> Content:
    """The suite's own content, with these instead."""
    return Content(frame_files(None), audio, prompts, root)


def same(arrays: Sequence[Array], others: Sequence[Array]) -> bool:
    """Whether two rows of arrays are equal."""
    return all(np.array_equal(one, other) for one, other in zip(arrays, others, strict=True))
