"""Damaged sounds of every width: the samples that SciPy reads, or one message."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from fixtures.errors import InputError
from fixtures.modalities.wav_files import read_beginning
from meta_tests.mutations import mutated, mutations_of_each, require_one_message
from meta_tests.test_modalities_wav_files import FLOAT, PCM, RATE, by_scipy, wav

RNG = np.random.default_rng(0)
COUNT = 200  # samples of each channel
WHOLE = {
    "8 bits": wav(RNG.bytes(COUNT), PCM, 1),
    "16 bits, stereo": wav(RNG.bytes(4 * COUNT), PCM, 2, 2),
    "24 bits, extensible": wav(RNG.bytes(3 * COUNT), PCM, 3, form="extensible"),
    "32 bits, big-endian": wav(RNG.bytes(4 * COUNT), PCM, 4, form="RIFX"),
    "float, stereo": wav(RNG.uniform(-1, 1, 2 * COUNT).astype("<f4").tobytes(), FLOAT, 4, 2),
    "float of 64 bits": wav(RNG.uniform(-1, 1, COUNT).tobytes(), FLOAT, 8, form="extensible"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_damaged_sound_is_what_scipy_reads_or_one_message(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.wav"
    refused = read = compared = 0
    for done, content in mutated(WHOLE[name], mutations_of_each(len(WHOLE)), name):
        path.write_bytes(content)
        try:
            sound = read_beginning(path, lambda _: 10**9)
        except InputError as error:
            require_one_message(error, done)
            refused += 1
            continue
        read += 1
        assert sound.rate_hz == RATE, done
        assert np.isfinite(sound.samples).all(), done
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # SciPy's, about chunks that it does not know
                expected = by_scipy(path)
        except Exception:  # SciPy gives up on some fields that no sample depends on
            continue
        compared += 1
        assert sound.samples.shape == expected.shape, done
        assert np.abs(sound.samples - expected).max() <= 1e-12 * max(1.0, float(np.abs(expected).max())), done
    assert compared > 0.9 * read > 0, "damage that matters to no sample's width is passed over"
    assert refused, "damage that matters is refused"
