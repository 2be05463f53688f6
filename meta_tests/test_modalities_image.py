"""Frames on the wire: their extremes and their size."""

from __future__ import annotations

import numpy as np

from fixtures.modalities import Item
from meta_tests.modality_cases import CASES, PICTURE, content


def test_synthetic_frames_reach_0_and_255() -> None:
    made = {one.name: one.item for one in CASES[0][0].synthetic(content(), PICTURE)}
    assert (made["black"] == 0).all()
    assert (made["white"] == 255).all()
    for name in ("waves", "noise", "checkerboard"):
        assert made[name].min() <= 1, name
        assert made[name].max() >= 254, name
    checkerboard = made["checkerboard"].astype(int)
    assert (np.abs(np.diff(checkerboard, axis=0)) == 255).all()
    assert (np.abs(np.diff(checkerboard, axis=1)) == 255).all()


def test_frame_size_defaults_to_size_of_model() -> None:
    modality, variant = CASES[0][0], PICTURE.model_copy(update={"frame": None})
    assert modality.on_wire(variant) == Item("UINT8", (64, 96, 3))
    assert modality.items(content(), variant)[0].shape == (64, 96, 3)
