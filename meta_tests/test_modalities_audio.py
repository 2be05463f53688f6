"""Sounds: WAV files of all widths and rates, refusals, and the sounds that the suite makes."""

from __future__ import annotations

import struct
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from scipy.io import wavfile

from fixtures.errors import InputError
from fixtures.modalities import Array, wav_files
from fixtures.modalities.audio import Audio, audio_files, music, read_wav
from meta_tests.modality_cases import RATE, SOUND, content


def written(path: Path, samples: Array, rate: int = RATE, bits: int = 16) -> Path:
    """Samples `[count]` or `[count,channels]` in −1 … 1 as a WAV file."""
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    scaled = np.round(samples.reshape(-1) * (2.0 ** (bits - 1) - 1)).astype("<i4")
    raw = scaled.view(np.uint8).reshape(-1, 4)[:, : bits // 8] if bits > 8 else (scaled[:, None] + 128).astype(np.uint8)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(bits // 8)
        file.setframerate(rate)
        file.writeframes(raw.tobytes())
    return path


def tone(hertz: float, count: int, rate: int = RATE) -> Array:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(count) / rate)


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_pcm_is_read_to_its_last_bit(tmp_path: Path, bits: int) -> None:
    samples = np.concatenate([[-1.0, 1.0, 0.0], tone(440, 500), [2.0 ** (1 - bits)]])
    read = read_wav(written(tmp_path / "a.wav", samples, bits=bits), len(samples), RATE)
    assert read.dtype == np.float32
    assert np.abs(read - samples).max() <= 2.0 ** (1 - bits) + 2.0**-24
    assert read[-1] > 0


def test_stereo_channels_are_averaged(tmp_path: Path) -> None:
    left = tone(440, 500)
    path = written(tmp_path / "a.wav", np.stack([left, np.zeros(500)], axis=1))
    assert np.abs(read_wav(path, 500, RATE) - left / 2).max() < 2.0**-14


@pytest.mark.parametrize("rate", [8_000, 44_100, 96_000])
def test_resampled_tone_keeps_its_frequency(tmp_path: Path, rate: int) -> None:
    path = written(tmp_path / "a.wav", tone(440, rate, rate), rate)
    read = read_wav(path, RATE, RATE)
    inside = slice(RATE // 10, -RATE // 10)  # the filter has nothing to see beyond the ends
    assert np.abs(read - tone(440, RATE))[inside].max() < 0.005
    assert int(np.abs(np.fft.rfft(read)).argmax()) == 440


def test_short_file_is_repeated_and_long_file_cut(tmp_path: Path) -> None:
    samples = tone(440, 300)
    path = written(tmp_path / "a.wav", samples)
    whole = read_wav(path, 300, RATE)
    assert np.array_equal(read_wav(path, 700, RATE), np.concatenate([whole, whole, whole[:100]]))
    assert np.array_equal(read_wav(path, 120, RATE), whole[:120])


def changed(at: int, layout: str, value: int) -> Callable[[bytes], bytes]:
    """A WAV file with another number in its header."""

    def change(whole: bytes) -> bytes:
        content = bytearray(whole)
        struct.pack_into(layout, content, at, value)
        return bytes(content)

    return change


UNUSABLE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "header only": lambda whole: whole[:44],
    "half a header": lambda whole: whole[:30],
    "half a sample": lambda whole: whole[:45],
    "text": lambda _: b"no sound, but more than the forty-four bytes of a header",
    "float of 16 bits": changed(20, "<H", 3),
    "A-law": changed(20, "<H", 6),
    "blocks of half a sample": changed(32, "<H", 1),
    "no format": changed(12, "<I", 0),
    "no channels": changed(22, "<H", 0),
    "no rate": changed(24, "<I", 0),
}


@pytest.mark.parametrize("how", UNUSABLE)
def test_damaged_wav_is_refused(tmp_path: Path, how: str) -> None:
    path = written(tmp_path / "a.wav", tone(440, 500))
    path.write_bytes(UNUSABLE[how](path.read_bytes()))
    with pytest.raises(InputError) as caught:
        read_wav(path, 100, RATE)
    assert str(caught.value).startswith(f"{path}: sound=")
    assert "expected a WAV file, PCM of 8 to 64 bits or float of 32 or 64, at 1 to 768 kHz. Convert" in str(
        caught.value
    )


def test_float_wav_is_read_unless_not_finite(tmp_path: Path) -> None:
    samples = tone(440, 500).astype(np.float32)
    wavfile.write(tmp_path / "a.wav", RATE, samples)
    assert np.array_equal(read_wav(tmp_path / "a.wav", 500, RATE), samples)
    wavfile.write(tmp_path / "b.wav", RATE, np.full(500, np.nan, np.float32))
    with pytest.raises(InputError, match=r"b\.wav: sound=not finite"):
        read_wav(tmp_path / "b.wav", 500, RATE)


@pytest.mark.parametrize("name", ["absent.wav", "."])
def test_absent_file_and_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"sound=\w+Error"):
        read_wav(tmp_path / name, 100, RATE)


def test_truncated_wav_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav", tone(440, 500))
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(InputError, match=r"a\.wav: sound="):
        read_wav(path, 100, RATE)


def test_absurd_rate_is_refused_before_resampling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def resample(samples: Array, up: int, down: int) -> NoReturn:
        raise MemoryError(f"scipy takes {20 * max(up, down)} numbers here")

    monkeypatch.setattr("scipy.signal.resample_poly", resample)
    path = written(tmp_path / "a.wav", tone(440, 500))
    path.write_bytes(changed(24, "<I", 2**32 - 5)(path.read_bytes()))
    with pytest.raises(InputError, match=r"a\.wav: sound="):
        read_wav(path, 100, RATE)


@pytest.mark.parametrize("rate", [8_000, 44_100, 96_000])
def test_long_recording_is_read_only_as_far_as_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int) -> None:
    from scipy.signal import resample_poly  # noqa: PLC0415  takes a second to import

    noise = np.random.default_rng(0).uniform(-0.5, 0.5, rate).astype(np.float32)
    wavfile.write(tmp_path / "a.wav", rate, noise)
    expected = resample_poly(noise.astype(np.float64), RATE, rate)[:1000]
    scaled, read = wav_files._scaled, []

    def count(raw: bytes, layout: Any) -> Array:
        read.append(len(raw))
        return scaled(raw, layout)

    monkeypatch.setattr(wav_files, "_scaled", count)
    assert np.abs(read_wav(tmp_path / "a.wav", 1000, RATE) - expected).max() < 1e-7
    assert read[0] <= 4 * (1000 * rate / RATE + 11 * max(rate / RATE, 1) + 2)


def test_float_beyond_1_is_clipped_with_a_remark(tmp_path: Path) -> None:
    wavfile.write(tmp_path / "a.wav", RATE, np.array([0.25, -3.5, 1.0, 2.0], np.float32))
    wavfile.write(tmp_path / "b.wav", RATE, np.array([0.25, -1.0], np.float64))
    assert read_wav(tmp_path / "a.wav", 4, RATE).tolist() == [0.25, -1.0, 1.0, 1.0]
    (remark,) = Audio(RATE).remarks(content(audio=audio_files(str(tmp_path))), SOUND)
    assert remark.startswith("sounds: 1 of 2 files exceed -1 … 1 and are clipped, ")
    assert remark.endswith("a.wav reaches 3.5")
    assert not list(Audio(RATE).remarks(content(audio=(tmp_path / "b.wav",)), SOUND))


def test_24_bit_extensible_wav_is_read(tmp_path: Path) -> None:
    samples = tone(440, 500)
    path = written(tmp_path / "a.wav", samples, bits=24)
    whole = path.read_bytes()
    pcm = bytes.fromhex("0100000000001000800000aa00389b71")
    header = struct.pack("<HHIIHH", 0xFFFE, 1, RATE, 3 * RATE, 3, 24) + struct.pack("<HHI", 22, 24, 4) + pcm
    data = whole[36:]
    riff = b"WAVE" + b"fmt " + struct.pack("<I", len(header)) + header + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(riff)) + riff)
    assert np.abs(read_wav(path, 500, RATE) - samples).max() < 2.0**-22


def test_items_are_files_sorted_by_name(tmp_path: Path) -> None:
    for name, hertz in (("b.wav", 600), ("a.WAV", 300)):
        written(tmp_path / name, tone(hertz, RATE))
    (tmp_path / "notes.txt").write_text("no sound")
    files = audio_files(str(tmp_path))
    assert [file.name for file in files] == ["a.WAV", "b.wav"]
    items = Audio(RATE).items(content(audio=files), SOUND)
    assert [int(np.abs(np.fft.rfft(item[:RATE])).argmax()) for item in items] == [300, 600]


def test_no_audio_option_gives_no_files() -> None:
    assert audio_files(None) == ()


@pytest.mark.parametrize("folder", ["absent", "."])
def test_folder_without_wav_is_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / "notes.txt").write_text("no sound")
    with pytest.raises(InputError, match=r"--audio .*: sounds=0, expected a folder with WAV files"):
        audio_files(str(tmp_path / folder))


def test_unreadable_audio_folder_is_refused() -> None:
    with pytest.raises(InputError, match=r"--audio (long)+: folder=File name too long"):
        audio_files("long" * 100)


def test_music_is_audible_and_differs_by_seed() -> None:
    pieces = [music(seed, RATE, RATE) for seed in range(3)]
    assert all(piece.shape == (RATE,) and piece.dtype == np.float32 for piece in pieces)
    assert all(0.5 < np.abs(piece).max() <= 1 and piece.std() > 0.01 for piece in pieces)
    # Not one stretch of a tenth of a second is silent.
    assert all((piece.reshape(10, -1).std(axis=1) > 1e-3).all() for piece in pieces)
    assert len({piece.tobytes() for piece in pieces}) == len(pieces)
    music.cache_clear()
    assert np.array_equal(music(0, RATE, RATE), pieces[0])


MADE_SOUNDS = ["sweep", "noise", "silence", "quiet", "clipped", "clicks"]


@pytest.mark.parametrize("name", MADE_SOUNDS)
def test_synthetic_sounds_are_within_range(name: str) -> None:
    made = {one.name: one.item for one in Audio(RATE).synthetic(content(), SOUND)}
    assert list(made) == MADE_SOUNDS
    assert np.abs(made[name]).max() <= 1


def test_synthetic_sounds_reach_extremes() -> None:
    made = {one.name: one.item for one in Audio(RATE).synthetic(content(), SOUND)}
    assert not made["silence"].any()
    assert 0 < np.abs(made["quiet"]).max() < 2.0**-15
    assert (made["clipped"].min(), made["clipped"].max()) == (-1, 1)
    assert (np.abs(made["clipped"]) == 1).mean() > 0.8
    assert np.flatnonzero(made["clicks"] == 1).tolist() == list(range(0, 2 * RATE, RATE // 4))
