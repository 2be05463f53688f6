"""CLIP and CLAP with few and narrow layers, RAFT with few refinements, for tests of what holds at every size.

Code, keys and file layouts are the same. Of their official sizes, `test_models_clip.py`, `test_models_clap.py` and
`test_models_raft.py` compare the outputs with upstream's, and `test_export_gate.py` judges RAFT's file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

from transformers import RobertaConfig

from fixtures.models import Checkpoint, clap, clip, raft
from fixtures.models.parts import clap as clap_parts
from fixtures.models.parts.clip import ClipSizes

CLIP, CLAP = "ViT-narrow-32", "HTSAT-narrow"

# The official vocabularies: the tokens of prompts have to be in them.
_CLIP_SIZES = ClipSizes(512, 128, 2, 32, 224, 128, 2)
_HTSAT = (32, (2, 1, 1, 1))  # windows are shifted in every second block of a stage
_ROBERTA = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 12, "intermediate_size": 384}


_REFINEMENTS = 3


@contextmanager
def narrow_towers() -> Iterator[None]:
    """The families know the narrow models inside; CLAP's text tower is narrow there, whatever the audio model.

    RAFT refines three times, and so does torchvision's: its files go by other variants than `meta_tests.exports.RAFT`.
    """
    from torchvision.models.optical_flow import RAFT  # noqa: PLC0415  fixtures has to say first where torch compiles to

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
        stack.enter_context(mock.patch.object(raft, "REFINEMENTS", _REFINEMENTS))
        stack.enter_context(mock.patch.object(RAFT.forward, "__defaults__", (_REFINEMENTS,)))
        yield


def _narrow_roberta() -> RobertaConfig:
    return RobertaConfig(**{**_OFFICIAL.to_dict(), **_ROBERTA})


_OFFICIAL = clap_parts.roberta_base()
