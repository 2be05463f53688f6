"""WAV files of every width against SciPy's reader, and files of programs that did not know their length."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import wavfile

from fixtures.errors import InputError
from fixtures.modalities.wav_files import read_beginning

RATE = 44_100
SUBFORMAT = bytes.fromhex("000000001000800000aa00389b71")
PCM, FLOAT = 1, 3
FULL_SCALE = {"uint8": 2.0**7, "int16": 2.0**15, "int32": 2.0**31, "int64": 2.0**63, "float32": 1.0, "float64": 1.0}


def wav(raw: bytes, kind: int, width: int, channels: int = 1, *, bits: int = 0, form: str = "RIFF") -> bytes:
    """A file of the form `RIFF`, `RIFX` or `extensible` with these bytes as its samples of `width` bytes."""
    order, bits = ">" if form == "RIFX" else "<", bits or 8 * width
    tag, block = 0xFFFE if form == "extensible" else kind, channels * width
    described = struct.pack(f"{order}HHIIHH", tag, channels, RATE, RATE * block, block, bits)
    if form == "extensible":
        described += struct.pack("<HHIH", 22, bits, 0, kind) + SUBFORMAT
    body = b"".join(
        name + struct.pack(f"{order}I", len(part)) + part + b"\0" * (len(part) % 2)
        for name, part in ((b"LIST", b"odd"), (b"fmt ", described), (b"fact", bytes(4)), (b"data", raw))
    )
    return (b"RIFX" if form == "RIFX" else b"RIFF") + struct.pack(f"{order}I", 4 + len(body)) + b"WAVE" + body


def all_of(path: Path) -> NDArray[np.float64]:
    return read_beginning(path, lambda _: 10**9).samples


def by_scipy(path: Path) -> NDArray[np.float64]:
    rate, sound = wavfile.read(path)
    assert rate == RATE
    centred = sound.astype(np.float64) - (128 if sound.dtype == np.uint8 else 0)
    mono: NDArray[np.float64] = centred.reshape(len(sound), -1).mean(axis=1) / FULL_SCALE[sound.dtype.name]
    return mono


@pytest.mark.parametrize("form", ["RIFF", "RIFX", "extensible"])
@pytest.mark.parametrize(
    ("kind", "width", "bits"),
    [
        *((PCM, 1, 8), (PCM, 2, 16), (PCM, 2, 12), (PCM, 3, 24), (PCM, 3, 20), (PCM, 4, 32), (PCM, 8, 64)),
        *((FLOAT, 4, 32), (FLOAT, 8, 64)),
    ],
)
def test_every_width_is_read_as_scipy_reads_it(tmp_path: Path, kind: int, width: int, bits: int, form: str) -> None:
    rng, path = np.random.default_rng(width), tmp_path / "a.wav"
    for channels in (1, 2, 6):
        raw = rng.bytes(90 * channels * width)
        if kind == FLOAT:
            order = ">" if form == "RIFX" else "<"
            raw = rng.uniform(-1, 1, 90 * channels).astype(f"{order}f{width}").tobytes()
        path.write_bytes(wav(raw, kind, width, channels, bits=bits, form=form))
        assert np.abs(all_of(path) - by_scipy(path)).max() < 1e-15


def test_no_more_is_read_than_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(np.arange(1000, dtype="<i2").tobytes(), PCM, 2))
    sound = read_beginning(path, lambda rate: rate // 4410)
    assert (sound.samples * 2**15).tolist() == list(range(10))
    assert sound.rate_hz == RATE


@pytest.mark.parametrize("unknown", [0xFFFFFFFF, 0x7FFFF000], ids=["ffmpeg", "SoX"])
def test_sound_from_a_pipe_ends_with_its_file(tmp_path: Path, unknown: int) -> None:
    path, whole = tmp_path / "a.wav", wav(np.arange(100, dtype="<i2").tobytes(), PCM, 2)
    at = whole.index(b"data") + 4
    path.write_bytes(whole[:at] + struct.pack("<I", unknown) + whole[at + 4 :] + b"\1")
    assert (all_of(path) * 2**15).tolist() == list(range(100))


def test_long_file_says_its_length_in_front(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.wav", wav(np.arange(100, dtype="<i2").tobytes(), PCM, 2)
    at = whole.index(b"data") + 4
    lengths = b"ds64" + struct.pack("<IQQQI", 28, 0, 150, 75, 0)
    path.write_bytes(b"RF64" + whole[4:12] + lengths + whole[12:at] + b"\xff" * 4 + whole[at + 4 :])
    assert (all_of(path) * 2**15).tolist() == list(range(75))


def test_peak_is_that_of_the_loudest_channel(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(np.array([[3, -3], [0, 1]], "<f4").tobytes(), FLOAT, 4, 2))
    sound = read_beginning(path, lambda _: 2)
    assert sound.samples.tolist() == [0, 0.5]
    assert sound.peak == 3


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b"RIFF", b"FORM", "it does not begin as a WAV file does"),
        (b"fmt ", b"fmtx", "no chunk `fmt ` stands before its samples"),
        (b"data", b"dada", "it has no chunk `data`"),
        (b"data\xc8\0\0\0", b"data\xca\0\0\0", "it was cut: 2 of 202 bytes of its samples are missing"),
        (b"data\xc8\0\0\0", b"data\1\0\0\0", "it holds no sample"),
        (SUBFORMAT, b"\1" + SUBFORMAT[1:], "its extensible format is none of Microsoft's"),
        (b"\1\0" + SUBFORMAT, b"\x07\0" + SUBFORMAT, "format=µ-law"),
        (b"\1\0\x44\xac", b"\0\0\x44\xac", "0 channels at 44100 Hz"),
        (b"\x44\xac\0\0", b"\x45\xac\0\0", "its header contradicts itself: 88200 bytes a second at 44101 Hz"),
        (b"\2\0\x10\0", b"\5\0\x10\0", "16-bit PCM in blocks of 5 bytes"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: bytes, new: bytes, says: str) -> None:
    whole = wav(bytes(200), PCM, 2, form="extensible")
    assert whole.count(old) == 1
    path = tmp_path / "a.wav"
    path.write_bytes(whole.replace(old, new))
    with pytest.raises(InputError) as caught:
        all_of(path)
    assert str(caught.value).startswith(f"{path}: sound=ValueError ({says}), expected a WAV file, PCM of 8")
