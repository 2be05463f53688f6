"""CLIP and CLAP with few and narrow layers, for tests of what holds at every width: same code, keys and file layouts.

Of their official sizes, `test_models_clip.py` and `test_models_clap.py` compare the outputs with upstream's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

from transformers import RobertaConfig

from fixtures.models import Checkpoint, clap, clip
from fixtures.models.parts import clap as clap_parts
from fixtures.models.parts.clip import ClipSizes

CLIP, CLAP = "ViT-narrow-32", "HTSAT-narrow"

# The official vocabularies: the tokens of prompts have to be in them.
_CLIP_SIZES = ClipSizes(512, 128, 2, 32, 224, 128, 2)
_HTSAT = (32, (2, 2, 2, 2))
_ROBERTA = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 12, "intermediate_size": 384}


@contextmanager
def narrow_towers() -> Iterator[None]:
    """The families know the narrow models inside; CLAP's text tower is narrow there, whatever the audio model."""
    clip_file = Checkpoint(f"clip_cache/{CLIP}.pt", layout="torchscript")
    added = (
        (clip._SIZES, {CLIP: _CLIP_SIZES}),
        (clip.Clip.models, {CLIP: clip_file}),
        (clap_parts.AUDIO_MODELS, {CLAP: _HTSAT}),
        (clap.Clap.models, {CLAP: clap.Clap.models["HTSAT-tiny"]}),
    )
    with ExitStack() as stack:
        for known, new in added:
            stack.enter_context(mock.patch.dict(known, new))
        stack.enter_context(mock.patch.object(clap_parts, "roberta_base", _narrow_roberta))
        yield


def _narrow_roberta() -> RobertaConfig:
    return RobertaConfig(**{**_OFFICIAL.to_dict(), **_ROBERTA})


_OFFICIAL = clap_parts.roberta_base()
