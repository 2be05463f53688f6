"""fixtures.tuning: only options that are proved faster, and right, replace the defaults of a published file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from fixtures.errors import InputError
from fixtures.export.formats import Where
from fixtures.export.formats.onnx import Onnx
from fixtures.export.parity import Infer
from fixtures.manifest import read_manifest
from fixtures.records import FileRecord, Status, TuningMeasurement
from fixtures.results.percentiles import latency_of
from fixtures.spec import spec_from
from fixtures.tuning import tuner as tuner_module
from fixtures.tuning.candidates import Options, candidates
from fixtures.tuning.journal import JOURNAL, Journal
from fixtures.tuning.measurement import TimingRequest
from fixtures.tuning.tuner import Tuner, options_text
from fixtures.weights.bundle import Bundle
from meta_tests.exports import MIDAS, Published, published
from meta_tests.loading import CONTENT

ONE, TWO, BOTH = {"intra_op_thread_count": "1"}, {"execution_mode": "parallel"}, {"intra_op_thread_count": "2"}
SETS: tuple[Options, ...] = ({}, ONE, TWO, BOTH)
SPEC = {
    "schema_version": 1,
    "name": "tuned",
    "dtype": "fp32",
    "runtimes": ["onnxruntime"],
    "target": {"triton": "24.12"},
    "variants": [{"name": MIDAS.name, "family": "midas", "model": "MiDaS_small", "height": 64, "width": 96}],
}


@dataclass
class Stopwatch:
    """Stands in for processes that time a file: the milliseconds of each set of options, and what was asked."""

    times_ms: dict[str, float]
    asked: list[tuple[int, str]] = field(default_factory=list)
    stops_after: int = 1000

    def survey(self, request: TimingRequest, sets: Sequence[Options]) -> None:
        """One process for all sets, which writes to tuning.jsonl itself."""
        for options in sets:
            wanted = request.wanted.model_copy(update={"options": options})
            Journal(request.onnx_dir).add(self(replace(request, wanted=wanted)))

    def __call__(self, request: TimingRequest) -> TuningMeasurement:
        if len(self.asked) == self.stops_after:
            raise KeyboardInterrupt
        name = options_text(request.wanted.options)
        self.asked.append((request.wanted.process, name))
        if name not in self.times_ms:
            return request.wanted.model_copy(update={"status": "oom", "error": "no memory"})
        # Processes differ by a thousandth.
        time = self.times_ms[name] * (1 + 1e-3 * (request.wanted.process % 2))
        done = {"status": "ok", "error": None, "latency_ms": latency_of([time] * 10), "rounds": 10}
        return request.wanted.model_copy(update=done)


@dataclass
class Bench:
    """A tuner of a published file in a folder of its own."""

    place: Published
    root: Path
    lines: list[str] = field(default_factory=list)

    def tuner(self, stopwatch: Stopwatch) -> Tuner:
        return Tuner(
            spec=spec_from(SPEC, "spec"),
            bundle=Bundle(self.root),
            content=replace(CONTENT, models_root=self.root),
            onnx_dir=self.place.folder,
            device=torch.device("cpu"),
            offline=False,
            processes=3,
            report=self.lines.append,
            survey=stopwatch.survey,
            measure=stopwatch,
        )

    @property
    def record(self) -> FileRecord:
        return read_manifest(self.place.folder).files[self.place.export.file]


@pytest.fixture
def bench(bundle_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    place = published(bundle_root, MIDAS).copy(tmp_path / "onnx")
    monkeypatch.setattr(tuner_module, "candidates", lambda *_: SETS)
    monkeypatch.setattr(tuner_module, "Reference", lambda *_: place.reference)
    return Bench(place, bundle_root)


def named(*sets: Options) -> list[str]:
    return [options_text(one) for one in sets]


def times(default: float, one: float, two: float, both: float) -> dict[str, float]:
    return dict(zip(named(*SETS), (default, one, two, both), strict=True))


# --- what is measured ---


def test_candidates_are_what_the_release_honours_with_the_defaults_first() -> None:
    assert candidates("cuda", "24.08", 2) == (
        {},
        {"cudnn_conv_algo_search": "heuristic"},
        {"cudnn_conv_algo_search": "default"},
    )
    newer = candidates("cuda", "24.12", 2)
    assert len(newer) == 12
    assert {"prefer_nhwc": "1", "fuse_conv_bias": "1"} in newer
    assert all("use_tf32" not in one for one in newer)
    threads = [one.get("intra_op_thread_count") for one in candidates("cpu", "24.08", 5) if "execution_mode" not in one]
    assert threads == [None, "1", "2", "4"]


def test_every_set_is_timed_once_then_the_fastest_in_turn(bench: Bench) -> None:
    stopwatch = Stopwatch(times(10.0, 5.0, 20.0, 8.0))
    bench.tuner(stopwatch).tune(bench.place.export)
    default, one, two, both = named(*SETS)
    assert stopwatch.asked == [
        *((0, name) for name in (default, one, two, both)),
        *((1, name) for name in (default, one, both)),
        *((2, name) for name in (both, one, default)),
        *((3, name) for name in (default, one, both)),
    ]


def test_sets_that_the_survey_did_not_come_to_are_timed_in_processes_of_their_own(bench: Bench) -> None:
    class Ends(Stopwatch):
        def survey(self, request: TimingRequest, sets: Sequence[Options]) -> None:
            super().survey(request, sets[:2])

    stopwatch = Ends(times(10.0, 5.0, 20.0, 8.0))
    tuning = bench.tuner(stopwatch).tune(bench.place.export)
    assert stopwatch.asked[:4] == [(0, name) for name in named(*SETS)]
    assert len(stopwatch.asked) == 4 + 9
    assert [one.processes for one in tuning.candidates] == [3, 3, 3, 1]
    assert sum(line.startswith(f"{bench.place.export.file}, process 0, ") for line in bench.lines) == 4


# --- what is decided ---


def test_fastest_options_are_entered_with_their_measurement_and_parity(bench: Bench) -> None:
    before = bench.record
    tuning = bench.tuner(Stopwatch(times(10.0, 5.0, 20.0, 8.0))).tune(bench.place.export)
    assert bench.record == before.model_copy(update={"tunings": (tuning,)})
    assert bench.record.options("cpu", "fp32") == ONE
    assert bench.record.options("cuda", "fp32") == {}
    assert (tuning.provider, tuning.dtype, tuning.triton, tuning.driver) == ("cpu", "fp32", "24.12", None)
    assert tuning.parity is not None
    assert tuning.parity.passed
    assert [(one.options, one.verdict) for one in tuning.candidates] == [
        ({}, None),
        (ONE, "faster"),
        (BOTH, "faster"),
        (TWO, None),
    ]
    chosen = tuning.candidates[1]
    assert chosen.p50_ms == pytest.approx(5.0, rel=2e-3)
    assert chosen.ratio == pytest.approx(0.5, rel=1e-6)
    assert chosen.interval is not None
    assert chosen.interval[0] < 0.5 < chosen.interval[1] < 0.51
    assert tuning.candidates[3].reason == "not below the defaults in the survey"


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [(times(10.0, 9.9, 11.0, 12.0), "same"), ({"defaults": 10.0, "intra_op_thread_count=1": 9.5}, "faster")],
)
def test_defaults_stay_unless_options_are_proved_faster(bench: Bench, measured: dict[str, float], verdict: str) -> None:
    tuning = bench.tuner(Stopwatch(measured)).tune(bench.place.export)
    assert tuning.candidates[1].verdict == verdict
    assert tuning.options == (ONE if verdict == "faster" else {})
    assert (tuning.parity is None) == (verdict == "same")


def test_options_that_do_not_run_are_left_out_by_their_error(bench: Bench) -> None:
    tuning = bench.tuner(Stopwatch({"defaults": 10.0})).tune(bench.place.export)
    assert tuning.options == {}
    assert [one.reason for one in tuning.candidates[1:]] == ["oom: no memory"] * 3


def test_options_that_fail_in_one_process_are_failed(bench: Bench) -> None:
    class Fails(Stopwatch):
        def __call__(self, request: TimingRequest) -> TuningMeasurement:
            found = super().__call__(request)
            fails = request.wanted.process == 2 and request.wanted.options == ONE
            return found.model_copy(update={"status": "error", "error": "broken"}) if fails else found

    tuning = bench.tuner(Fails(times(10.0, 5.0, 20.0, 8.0))).tune(bench.place.export)
    assert tuning.candidates[1].verdict == "failed"
    assert tuning.candidates[1].reason == "error: broken"
    assert tuning.options == BOTH


def wrong_under(options: Options) -> Callable[..., Infer]:
    """`Onnx.infer` with outputs that are 1% off under some options."""
    right = Onnx.infer

    def infer(self: Onnx, path: Path, where: Where, given: Options | None = None) -> Infer:
        answer = right(self, path, where, given)
        return (lambda arrays: answer(arrays) * 1.01) if given == options else answer

    return infer


def test_options_under_which_the_file_fails_its_gate_are_not_chosen(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Onnx, "infer", wrong_under(ONE))
    tuning = bench.tuner(Stopwatch(times(10.0, 5.0, 20.0, 8.0))).tune(bench.place.export)
    assert tuning.options == BOTH
    assert (tuning.candidates[1].options, tuning.candidates[1].verdict) == (ONE, "faster")
    assert "error=0.01 against float64, expected at most" in tuning.candidates[1].reason
    assert any(line.startswith(f"{bench.place.export.file} under {options_text(ONE)} fails") for line in bench.lines)
    assert not list(bench.place.folder.glob(".staging-*"))


# --- interruptions, and files that are not to be tuned ---


def test_interrupted_tuning_keeps_what_was_measured_and_goes_on(bench: Bench) -> None:
    before = bench.record
    with pytest.raises(KeyboardInterrupt):
        bench.tuner(Stopwatch(times(10.0, 5.0, 20.0, 8.0), stops_after=6)).tune(bench.place.export)
    journal = bench.place.folder / JOURNAL
    assert len(journal.read_text().splitlines()) == 6
    assert bench.record == before
    journal.write_text(journal.read_text()[:-20])  # the last line was cut short
    again = Stopwatch(times(10.0, 5.0, 20.0, 8.0))
    tuning = bench.tuner(again).tune(bench.place.export)
    assert again.asked[0] == (1, options_text({})), "a turn is measured again as a whole"
    assert len(again.asked) == 9
    assert tuning.options == ONE
    third = Stopwatch({})
    assert bench.tuner(third).tune(bench.place.export) == tuning
    assert third.asked == []


@pytest.mark.parametrize(
    ("stops_after", "asked"),
    [(3, 4 + 9), (4, 9), (6, 9), (8, 6), (10, 3)],
    ids=str,
)
def test_times_before_an_interruption_are_not_compared_with_times_after_it(
    bench: Bench, stops_after: int, asked: int
) -> None:
    then = times(20.0, 19.98, 40.0, 19.99)
    now = times(10.0, 9.99, 20.0, 9.995)  # the same file on the same machine, which was disturbed before
    with pytest.raises(KeyboardInterrupt):
        bench.tuner(Stopwatch(then, stops_after=stops_after)).tune(bench.place.export)
    again = Stopwatch(now)
    tuning = bench.tuner(again).tune(bench.place.export)
    assert len(again.asked) == asked
    assert tuning.options == {}
    assert [one.ratio for one in tuning.candidates[1:3]] == pytest.approx([0.999, 0.9995], rel=1e-6)
    assert tuning.candidates[3].reason == "not below the defaults in the survey"


@pytest.mark.parametrize(("status", "asked"), [("error", 0), ("unstable", 4), ("oom", 4)])
def test_survey_is_repeated_where_it_was_disturbed_and_not_for_a_set_that_does_not_run(
    bench: Bench, status: Status, asked: int
) -> None:
    class Disturbed(Stopwatch):
        def __call__(self, request: TimingRequest) -> TuningMeasurement:
            found = super().__call__(request)
            return found.model_copy(update={"status": status}) if request.wanted.options == TWO else found

    bench.tuner(Disturbed(times(10.0, 12.0, 20.0, 11.0))).tune(bench.place.export)
    again = Stopwatch(times(10.0, 12.0, 20.0, 11.0))
    bench.tuner(again).tune(bench.place.export)
    assert len(again.asked) == asked


def test_file_without_a_time_under_the_defaults_is_refused(bench: Bench) -> None:
    with pytest.raises(InputError, match=r"time under the defaults=oom, expected a file that runs.*no memory"):
        bench.tuner(Stopwatch({})).tune(bench.place.export)
    assert bench.record.tunings == ()


def test_file_of_other_weights_is_refused(bench: Bench, bundle_root: Path) -> None:
    variant = MIDAS.model_copy(update={"weights": "torch_cache/hub/checkpoints/other.pt"})
    tuner = bench.tuner(Stopwatch({}))
    tuner.bundle.remember(replace(bench.place.weights, name="other", sha256="0" * 64))
    with pytest.raises(InputError):
        tuner.tune(replace(bench.place.export, variant=variant))


def test_file_of_another_graph_than_the_spec_asks_for_is_refused_before_it_is_timed(bench: Bench) -> None:
    stopwatch = Stopwatch(times(10.0, 5.0, 20.0, 8.0))
    with pytest.raises(InputError, match="graph=portable, expected contrib for"):
        bench.tuner(stopwatch).tune(replace(bench.place.export, graph="contrib"))
    assert stopwatch.asked == []


def test_another_file_published_meanwhile_is_not_given_the_options(bench: Bench) -> None:
    class Replaces(Stopwatch):
        def __call__(self, request: TimingRequest) -> TuningMeasurement:
            path = bench.place.folder / "manifest.json"
            path.write_text(path.read_text().replace(bench.record.sha256, "0" * 64))
            return super().__call__(request)

    with pytest.raises(InputError, match="sha256=another, expected the file that was tuned"):
        bench.tuner(Replaces(times(10.0, 11.0, 20.0, 12.0))).tune(bench.place.export)
    assert bench.record.tunings == ()


def test_export_drops_the_tuning(bench: Bench) -> None:
    bench.tuner(Stopwatch(times(10.0, 5.0, 20.0, 8.0))).tune(bench.place.export)
    gate = bench.place.gate(bench.place.unchanged)
    gate.publish()
    gate.close()
    assert bench.record.tunings == ()
