"""What clients send: items of one shape and dtype, real ones from files, made ones always the same."""

from __future__ import annotations

import shutil
import struct
import wave
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from scipy import signal
from scipy.io import wavfile

from fixtures.errors import InputError
from fixtures.modalities import Array, Content, Item, Modality, batches
from fixtures.modalities.audio import Audio, audio_files, music, read_wav
from fixtures.modalities.frames import frame_files
from fixtures.modalities.image import Image
from fixtures.modalities.text import DEFAULT_PROMPTS, Text, read_prompts
from fixtures.modalities.tokenizers import ClipTokenizer, HubTokenizer, hub_snapshot
from fixtures.models import family_named
from fixtures.records import Normalization
from fixtures.spec import Frame, Variant
from fixtures.synthetic.files import save_tokenizer

RATE = 48_000
DTYPES = (torch.float32, torch.float16, torch.float64)
ROBERTA = ("roberta-base", "FacebookAI/roberta-base")
PROMPTS = ("a photo of a dog", "two people playing chess in a park", "waves at a beach")
PICTURE = Variant(name="i", family="midas", model="MiDaS_small", height=64, width=96, frame=Frame(height=48, width=80))
SOUND = Variant(name="a", family="clap", model="HTSAT-tiny", tower="audio", duration_s=2)
WORDS = Variant(name="t", family="clip", model="ViT-B-32", tower="text", tokens=77)
CASES = [
    (Image(Normalization(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5), interpolation="bilinear")), PICTURE),
    (Audio(RATE), SOUND),
    (Text(ClipTokenizer()), WORDS),
]
EACH = pytest.mark.parametrize(("modality", "variant"), CASES, ids=[modality.kind for modality, _ in CASES])


def content(root: Path = Path("nowhere"), audio: tuple[Path, ...] = (), prompts: Path = DEFAULT_PROMPTS) -> Content:
    return Content(frame_files(None), audio, prompts, root)


def same(arrays: Sequence[Array], others: Sequence[Array]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(arrays, others, strict=True))


# --- batches ---


def test_items_follow_each_other_round_and_round() -> None:
    items = [np.full((2, 3), index, np.uint8) for index in range(3)]
    sets = batches(items, inputs=1, batch=2, count=4)
    assert [one.shape for (one,) in sets] == [(2, 2, 3)] * 4
    assert [one[:, 0, 0].tolist() for (one,) in sets] == [[0, 1], [2, 0], [1, 2], [0, 1]]


def test_the_second_input_is_one_item_later() -> None:
    items = [np.array([index]) for index in range(4)]
    sets = batches(items, inputs=2, batch=3, count=2)
    rows = [[one[:, 0].tolist() for one in one_set] for one_set in sets]
    assert rows == [[[0, 1, 2], [1, 2, 3]], [[3, 0, 1], [0, 1, 2]]]


def test_a_batch_may_be_larger_than_what_there_is() -> None:
    ((batch,),) = batches([np.array([7])], inputs=1, batch=3, count=1)
    assert batch[:, 0].tolist() == [7, 7, 7]


def test_the_digests_of_content_are_of_what_the_files_hold(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a dog\n")
    before = content(prompts=prompts)
    assert before.files == (*before.frames, prompts)
    digests = before.digests()
    prompts.write_text("a cat\n")
    assert [old == new for old, new in zip(digests, before.digests(), strict=True)] == [True] * 6 + [False]


# --- what every modality promises ---


@pytest.mark.parametrize(
    ("index", "wire", "model"),
    [
        (0, Item("UINT8", (48, 80, 3)), Item("FLOAT", (3, 64, 96))),
        (1, Item("FLOAT", (2 * RATE,)), Item("FLOAT", (2 * RATE,))),
        (2, Item("INT64", (77,)), Item("INT64", (77,))),
    ],
    ids=["image", "audio", "text"],
)
def test_what_clients_send_and_what_the_file_takes(index: int, wire: Item, model: Item) -> None:
    modality, variant = CASES[index]
    assert modality.kind == variant.kind
    assert modality.on_wire(variant) == wire
    assert modality.at_model(variant) == model


@EACH
def test_every_item_is_what_the_wire_takes(modality: Modality, variant: Variant) -> None:
    wire = modality.on_wire(variant)
    dtype = {"UINT8": np.uint8, "FLOAT": np.float32, "INT64": np.int64}[wire.dtype]
    items = modality.items(content(), variant)
    arrays = [items[index] for index in range(len(items))] + [
        made.item for made in modality.synthetic(content(), variant)
    ]
    assert {(array.shape, array.dtype.type) for array in arrays} == {(wire.shape, dtype)}


@EACH
def test_made_items_are_always_the_same_and_each_is_another(modality: Modality, variant: Variant) -> None:
    made, again = modality.synthetic(content(), variant), modality.synthetic(content(), variant)
    assert [one.name for one in made] == [one.name for one in again]
    assert same([one.item for one in made], [one.item for one in again])
    assert len({one.name for one in made}) == len({one.item.tobytes() for one in made}) == len(made)
    assert [one.name for one in made if one.has_content] != []
    assert [one.name for one in made if not one.has_content] != []


@EACH
def test_real_items_differ_and_are_always_the_same(modality: Modality, variant: Variant) -> None:
    items, again = modality.items(content(), variant), modality.items(content(), variant)
    assert len(items) >= 6
    arrays = [items[index] for index in range(len(items))]
    assert len({array.tobytes() for array in arrays}) == len(arrays)
    assert same(arrays, [again[index] for index in range(len(again))])


@EACH
@pytest.mark.parametrize("by", [1, 3])
def test_a_moved_item_is_another_of_the_same_kind(modality: Modality, variant: Variant, by: int) -> None:
    items = modality.items(content(), variant)
    with_content = [made.item for made in modality.synthetic(content(), variant) if made.has_content]
    for item in [items[0], items[1], *with_content]:
        before = item.copy()
        moved = modality.shifted(item, by)
        assert (moved.shape, moved.dtype) == (item.shape, item.dtype)
        assert not np.array_equal(moved, item)
        assert np.array_equal(np.sort(moved, axis=None), np.sort(item, axis=None))
        assert np.array_equal(item, before)
        assert np.array_equal(modality.shifted(item, 0), item)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_a_model_takes_in_each_dtype(dtype: torch.dtype) -> None:
    image, audio, text = (modality for modality, _ in CASES)
    assert image.cast(torch.rand(2), dtype).dtype == dtype
    # The powers of a spectrum overflow fp16, and tokens are names.
    assert audio.cast(torch.rand(2), dtype).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tokens = torch.tensor([49407])
    assert text.cast(tokens, dtype) is tokens


@EACH
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_from_the_wire_to_the_model(modality: Modality, variant: Variant, dtype: torch.dtype) -> None:
    wire = torch.from_numpy(modality.synthetic(content(), variant)[0].item[None].copy())
    entered = modality.preprocess(variant, dtype)(wire)
    assert tuple(entered.shape[1:]) == modality.at_model(variant).shape
    assert entered.dtype == (dtype if variant.kind == "image" else wire.dtype)


# --- images ---


def test_made_frames_reach_both_ends_of_8_bits() -> None:
    made = {one.name: one.item for one in CASES[0][0].synthetic(content(), PICTURE)}
    assert (made["black"] == 0).all()
    assert (made["white"] == 255).all()
    for name in ("waves", "noise", "checkerboard"):
        assert made[name].min() <= 1, name
        assert made[name].max() >= 254, name
    checkerboard = made["checkerboard"].astype(int)
    assert (np.abs(np.diff(checkerboard, axis=0)) == 255).all()
    assert (np.abs(np.diff(checkerboard, axis=1)) == 255).all()


def test_frames_without_a_size_of_their_own_have_the_models() -> None:
    modality, variant = CASES[0][0], PICTURE.model_copy(update={"frame": None})
    assert modality.on_wire(variant) == Item("UINT8", (64, 96, 3))
    assert modality.items(content(), variant)[0].shape == (64, 96, 3)


# --- sound ---


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
def test_every_width_of_pcm_is_read_to_its_last_bit(tmp_path: Path, bits: int) -> None:
    samples = np.concatenate([[-1.0, 1.0, 0.0], tone(440, 500), [2.0 ** (1 - bits)]])
    read = read_wav(written(tmp_path / "a.wav", samples, bits=bits), len(samples), RATE)
    assert read.dtype == np.float32
    assert np.abs(read - samples).max() <= 2.0 ** (1 - bits) + 2.0**-24
    assert read[-1] > 0


def test_the_channels_of_a_stereo_file_are_averaged(tmp_path: Path) -> None:
    left = tone(440, 500)
    path = written(tmp_path / "a.wav", np.stack([left, np.zeros(500)], axis=1))
    assert np.abs(read_wav(path, 500, RATE) - left / 2).max() < 2.0**-14


@pytest.mark.parametrize("rate", [8_000, 44_100, 96_000])
def test_a_tone_stays_a_tone_at_another_rate(tmp_path: Path, rate: int) -> None:
    path = written(tmp_path / "a.wav", tone(440, rate, rate), rate)
    read = read_wav(path, RATE, RATE)
    inside = slice(RATE // 10, -RATE // 10)  # the filter has nothing to see beyond the ends
    assert np.abs(read - tone(440, RATE))[inside].max() < 0.005
    assert int(np.abs(np.fft.rfft(read)).argmax()) == 440


def test_a_short_file_is_repeated_and_a_long_one_cut(tmp_path: Path) -> None:
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
    "no channels": changed(22, "<H", 0),
    "no rate": changed(24, "<I", 0),
}


@pytest.mark.parametrize("how", UNUSABLE)
def test_a_file_that_is_no_sound_is_refused(tmp_path: Path, how: str) -> None:
    path = written(tmp_path / "a.wav", tone(440, 500))
    path.write_bytes(UNUSABLE[how](path.read_bytes()))
    with pytest.raises(InputError) as caught:
        read_wav(path, 100, RATE)
    assert str(caught.value).startswith(f"{path}: sound=")
    assert "expected a WAV file, PCM of 16, 24 or 32 bits or float, at 1 to 768 kHz. Convert it" in str(caught.value)


def test_floats_are_read(tmp_path: Path) -> None:
    samples = tone(440, 500).astype(np.float32)
    wavfile.write(tmp_path / "a.wav", RATE, samples)
    assert np.array_equal(read_wav(tmp_path / "a.wav", 500, RATE), samples)
    wavfile.write(tmp_path / "b.wav", RATE, np.full(500, np.nan, np.float32))
    with pytest.raises(InputError, match=r"b\.wav: sound=not finite"):
        read_wav(tmp_path / "b.wav", 500, RATE)


def test_eight_bits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.wav: sound=uint8, 500 samples at 48000 Hz, expected a WAV file"):
        read_wav(written(tmp_path / "a.wav", tone(440, 500), bits=8), 100, RATE)


@pytest.mark.parametrize("name", ["absent.wav", "."])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"sound=\w+Error"):
        read_wav(tmp_path / name, 100, RATE)


def test_a_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav", tone(440, 500))
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(InputError, match=r"a\.wav: sound="):
        read_wav(path, 100, RATE)


def test_a_rate_that_nothing_records_at_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def resample(samples: Array, up: int, down: int) -> NoReturn:
        raise MemoryError(f"scipy takes {20 * max(up, down)} numbers here")

    monkeypatch.setattr(signal, "resample_poly", resample)
    path = written(tmp_path / "a.wav", tone(440, 500))
    path.write_bytes(changed(24, "<I", 2**32 - 5)(path.read_bytes()))
    with pytest.raises(InputError, match=r"a\.wav: sound="):
        read_wav(path, 100, RATE)


def test_24_bits_as_recorders_write_them_are_read(tmp_path: Path) -> None:
    samples = tone(440, 500)
    path = written(tmp_path / "a.wav", samples, bits=24)
    whole = path.read_bytes()
    pcm = bytes.fromhex("0100000000001000800000aa00389b71")
    header = struct.pack("<HHIIHH", 0xFFFE, 1, RATE, 3 * RATE, 3, 24) + struct.pack("<HHI", 22, 24, 4) + pcm
    data = whole[36:]
    riff = b"WAVE" + b"fmt " + struct.pack("<I", len(header)) + header + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(riff)) + riff)
    assert np.abs(read_wav(path, 500, RATE) - samples).max() < 2.0**-22


def test_named_files_are_the_items_in_the_order_of_names(tmp_path: Path) -> None:
    for name, hertz in (("b.wav", 600), ("a.WAV", 300)):
        written(tmp_path / name, tone(hertz, RATE))
    (tmp_path / "notes.txt").write_text("no sound")
    files = audio_files(str(tmp_path))
    assert [file.name for file in files] == ["a.WAV", "b.wav"]
    items = Audio(RATE).items(content(audio=files), SOUND)
    assert [int(np.abs(np.fft.rfft(item[:RATE])).argmax()) for item in items] == [300, 600]


def test_nobody_has_to_name_sounds() -> None:
    assert audio_files(None) == ()


@pytest.mark.parametrize("folder", ["absent", "."])
def test_a_folder_without_sounds_is_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / "notes.txt").write_text("no sound")
    with pytest.raises(InputError, match=r"--audio .*: sounds=0, expected a folder with WAV files"):
        audio_files(str(tmp_path / folder))


def test_a_folder_of_sounds_that_cannot_be_looked_at_is_refused() -> None:
    with pytest.raises(InputError, match=r"--audio (long)+: folder=File name too long"):
        audio_files("long" * 100)


def test_music_sounds_and_is_another_piece_for_each_seed() -> None:
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
def test_made_sounds_are_waveforms(name: str) -> None:
    made = {one.name: one.item for one in Audio(RATE).synthetic(content(), SOUND)}
    assert list(made) == MADE_SOUNDS
    assert np.abs(made[name]).max() <= 1


def test_made_sounds_reach_the_edges() -> None:
    made = {one.name: one.item for one in Audio(RATE).synthetic(content(), SOUND)}
    assert not made["silence"].any()
    assert 0 < np.abs(made["quiet"]).max() < 2.0**-15
    assert (made["clipped"].min(), made["clipped"].max()) == (-1, 1)
    assert (np.abs(made["clipped"]) == 1).mean() > 0.8
    assert np.flatnonzero(made["clicks"] == 1).tolist() == list(range(0, 2 * RATE, RATE // 4))


# --- text ---


def test_the_shipped_prompts_are_many_and_short() -> None:
    prompts = read_prompts(DEFAULT_PROMPTS)
    assert len(prompts) == len(set(prompts)) >= 32
    ends = (ClipTokenizer().encode(prompts, 77, Path("nowhere")) == 49407).argmax(axis=1)
    assert 4 <= ends.min() <= ends.max() < 76


def test_lines_that_hold_nothing_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\n  a dog \r\n\t\n\nein Hündchen\n   ".encode())
    assert read_prompts(path) == ["a dog", "ein Hündchen"]


def test_a_byte_order_mark_is_no_word(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a dog\n", encoding="utf-8-sig")
    assert read_prompts(path) == ["a dog"]


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "prompts=0, expected a UTF-8 text file with a prompt a line. Name another file."),
        (b" \n\t\n", "prompts=0, "),
        ("ein Hündchen".encode("latin-1"), "content=no UTF-8, "),
        (b"dog\n" * 2**18 + b"x", "size=1048577, expected a UTF-8 text file with a prompt a line, up to 1 MiB"),
    ],
    ids=["empty", "blank", "Latin 1", "too large"],
)
def test_a_file_without_usable_prompts_is_refused(tmp_path: Path, raw: bytes, says: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(raw)
    with pytest.raises(InputError) as caught:
        read_prompts(path)
    assert str(caught.value).startswith(f"--prompts {path}: {says}")


@pytest.mark.parametrize(
    ("name", "reason"), [("absent.txt", "No such file or directory"), (".", "Is a directory")], ids=["absent", "folder"]
)
def test_prompts_that_cannot_be_read_are_refused(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"file={reason}, expected a UTF-8 text file"):
        read_prompts(tmp_path / name)


def test_the_prompts_of_a_person_are_the_items(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a dog\n\na cat\n")
    rows = Text(ClipTokenizer()).items(content(prompts=path), WORDS)
    assert same(rows, list(ClipTokenizer().encode(["a dog", "a cat"], 77, tmp_path)))


def test_made_texts_go_from_nothing_to_all_the_room() -> None:
    made = {one.name: one.item for one in Text(ClipTokenizer()).synthetic(content(), WORDS)}
    assert made["nothing"].tolist() == [49406, 49407, *[0] * 75]
    for name in ("full length", "one word again"):
        assert made[name][-1] == 49407, name
        assert (made[name][1:-1] != 0).all(), name


def test_every_prompt_can_be_moved() -> None:
    text = Text(ClipTokenizer())
    assert all(not np.array_equal(text.shifted(row, 3), row) for row in text.items(content(), WORDS))


@pytest.mark.parametrize("by", [1, 2, 3])
def test_moved_words_leave_begin_end_and_padding_in_their_places(by: int) -> None:
    text = Text(ClipTokenizer())
    for row in text.items(content(), WORDS)[:10]:
        moved = text.shifted(row, by)
        specials = np.isin(row, text.tokenizer.special_tokens)
        assert np.array_equal(np.isin(moved, text.tokenizer.special_tokens), specials)
        assert np.array_equal(moved[specials], row[specials])
        assert sorted(moved) == sorted(row)


def test_clips_tokens_are_openais() -> None:
    (row,) = ClipTokenizer().encode(["a diagram"], 77, Path("nowhere"))
    assert row.tolist() == [49406, 320, 22697, 49407, *[0] * 73]  # the example in CLIP's README


def test_clips_tokens_are_open_clips() -> None:
    from open_clip.tokenizer import tokenize  # noqa: PLC0415  three seconds, only for this one

    prompts = [*read_prompts(DEFAULT_PROMPTS), "", "DOG", "Über 犬 🐕 42 %", "dog " * 200]
    assert np.array_equal(ClipTokenizer().encode(prompts, 77, Path("nowhere")), tokenize(prompts, 77).numpy())


@pytest.mark.parametrize("length", [3, 16, 77])
def test_a_long_text_keeps_its_end_token(length: int) -> None:
    rows = ClipTokenizer().encode(["dog " * 200, "dog"], length, Path("nowhere"))
    dog = rows[1][1]
    assert rows.dtype == np.int64
    assert rows[0].tolist() == [49406, *[dog] * (length - 2), 49407]
    assert rows[1].tolist() == [49406, dog, 49407, *[0] * (length - 3)]


# --- tokenizers of the hub ---


@pytest.fixture(scope="module")
def hub_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub") / "root"
    save_tokenizer(root / "hf_cache" / "hub", "roberta-base", PROMPTS)
    return root


@pytest.fixture
def hub_copy(hub_root: Path, tmp_path: Path) -> Path:
    """The folder of the repository in a root that a test may change: read tokenizers are kept by their root."""
    return Path(shutil.copytree(hub_root, tmp_path / "root")) / "hf_cache" / "hub" / "models--roberta-base"


ROBERTA_TOKENIZER = HubTokenizer(ROBERTA, (0, 1, 2))


def test_robertas_rows_begin_end_and_are_padded(hub_root: Path) -> None:
    rows = ROBERTA_TOKENIZER.encode([*PROMPTS, "", "dog " * 300], 16, hub_root)
    assert rows.shape == (5, 16)
    assert rows.dtype == np.int64
    assert (rows[:, 0] == 0).all()
    for row in rows:
        (end,) = np.flatnonzero(row == 2)
        assert (row[end + 1 :] == 1).all()
        assert (row[1:end] > 2).all()
    assert rows[3].tolist() == [0, 2, *[1] * 14]
    assert rows[4][-1] == 2


def test_a_modality_with_a_tokenizer_of_the_hub(hub_root: Path) -> None:
    variant = Variant(name="t", family="clap", model="HTSAT-tiny", tower="text", tokens=12)
    text = family_named("clap").tower(variant).modality
    assert isinstance(text, Text)
    assert text.on_wire(variant) == Item("INT64", (12,))
    rows = text.items(content(hub_root), variant)
    made = text.synthetic(content(hub_root), variant)
    assert {row.shape for row in [*rows, *(one.item for one in made)]} == {(12,)}
    moved = text.shifted(rows[0], 1)
    assert not np.array_equal(moved, rows[0])
    assert np.array_equal(moved[rows[0] < 3], rows[0][rows[0] < 3])


@pytest.mark.parametrize(("repository", "cache"), list(product(ROBERTA, ("hf_cache/hub", "hf_cache"))))
def test_either_name_and_either_place_of_the_cache(tmp_path: Path, repository: str, cache: str) -> None:
    tokenizer_file, _, _ = save_tokenizer(tmp_path / cache, repository, PROMPTS)
    assert hub_snapshot(tmp_path, ROBERTA) == tokenizer_file.parent


def test_the_first_name_wins(tmp_path: Path) -> None:
    files = [save_tokenizer(tmp_path / "hf_cache" / "hub", name, PROMPTS) for name in reversed(ROBERTA)]
    assert hub_snapshot(tmp_path, ROBERTA) == files[1][0].parent


def test_a_missing_tokenizer_is_named_by_its_whole_path(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        ROBERTA_TOKENIZER.encode(["a dog"], 16, tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/hf_cache/hub/models--roberta-base: folder=missing, expected the tokenizer's folder. "
        "Put the hub's cache of roberta-base there; nothing is downloaded."
    )


def test_a_snapshot_that_is_not_there_is_refused(hub_copy: Path) -> None:
    (hub_copy / "refs" / "main").write_text("f" * 40)
    with pytest.raises(InputError, match=rf"refs/main: revision='{'f' * 40}', expected one of {'0' * 40}"):
        hub_snapshot(hub_copy.parents[2], ROBERTA)


def test_without_a_reference_the_only_snapshot_is_taken(hub_copy: Path) -> None:
    root = hub_copy.parents[2]
    (hub_copy / "refs" / "main").unlink()
    assert hub_snapshot(root, ROBERTA).name == "0" * 40
    (hub_copy / "snapshots" / ("1" * 40)).mkdir()
    with pytest.raises(InputError, match=f"snapshots={'0' * 40}, {'1' * 40}, expected one, or `refs/main`"):
        hub_snapshot(root, ROBERTA)
    shutil.rmtree(hub_copy / "snapshots")
    with pytest.raises(InputError, match="snapshots=none, expected one, or `refs/main`"):
        hub_snapshot(root, ROBERTA)


@pytest.mark.parametrize("how", ["missing", "half", "zero bytes"])
def test_a_tokenizer_that_is_not_whole_is_refused(hub_copy: Path, how: str) -> None:
    (file,) = hub_copy.rglob("tokenizer.json")
    whole = file.read_bytes()
    file.unlink()
    if how != "missing":
        file.write_bytes(whole[: len(whole) // 2] if how == "half" else b"")
    with pytest.raises(InputError) as caught:
        ROBERTA_TOKENIZER.encode(["a dog"], 16, hub_copy.parents[2])
    assert str(caught.value).startswith(f"{file.parent}: tokenizer=unusable (")
    assert "expected the tokenizer files of roberta-base. Put the whole snapshot there" in str(caught.value)
