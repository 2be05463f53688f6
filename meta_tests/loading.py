"""Subjects, and what they are measured on, for tests that need no whole run."""

from __future__ import annotations

from pathlib import Path

import torch

from fixtures.cases import Case
from fixtures.modalities import Content
from fixtures.modalities.frames import frame_files
from fixtures.modalities.text import DEFAULT_PROMPTS
from fixtures.spec import Dtype, Variant
from fixtures.subject import Sources, TorchSubject, load_torch_subject
from fixtures.weights.bundle import Bundle

# The suite's own, for tests without a hub's tokenizer.
CONTENT = Content(frame_files(None), (), DEFAULT_PROMPTS, Path("no tokenizers needed"))


def torch_subject(variant: Variant, dtype: Dtype, device: torch.device, bundle: Bundle) -> TorchSubject:
    """A variant as the torch runtimes run it."""
    return load_torch_subject(Case(variant, 1, dtype, "torch"), device, Sources(bundle, Path("no files needed")))
