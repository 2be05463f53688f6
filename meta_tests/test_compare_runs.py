"""`tools.compare_runs`: what it prints and writes, when its gate fails, and that no file makes it stumble."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fixtures.records import CaseSummary, Comparison
from meta_tests.conftest import Ended
from meta_tests.runs import HOSTILE, MACHINE, ended, is_one_message, latency, row, stored, with_value
from meta_tests.test_schemas import schema
from meta_tests.test_spec import places, values
from tools.compare_runs import main


def compared(folder: Path, before: list[CaseSummary], after: list[CaseSummary], *arguments: str | Path) -> Ended:
    """Of three processes a side, which agree but for a thousandth."""
    for name, cases in (("before", before), ("after", after)):
        for index in range(3):
            own = [
                case.model_copy(update={"latency_ms": latency(case.latency_ms.p50 * (1 + index / 1e3))})
                if case.latency_ms
                else case
                for case in cases
            ]
            stored(folder / name / str(index), *own)
    return ended(main, folder / "before", folder / "after", *arguments)


def test_it_shows_every_case_and_writes_what_fits_its_schema(tmp_path: Path) -> None:
    output = tmp_path / "comparison.json"
    said = compared(tmp_path, [row("a"), row("b"), row("c")], [row("a", p50=11), row("b"), row("d")], "-o", output)
    assert (said.returncode, said.stderr) == (0, "")
    for line in ("1 slower, 1 tie", "only in", f"wrote {output}", "│ slower"):
        assert line in said.stdout
    assert "assumed" not in said.stdout
    document = json.loads(output.read_text())
    jsonschema.validate(document, schema("comparison"))
    comparison = Comparison.model_validate(document)
    assert [case.verdict for case in comparison.pairs[0].cases] == ["slower", "tie"]
    assert comparison.pairs[0].baseline.run_ids == ("0", "1", "2")


def test_two_single_runs_are_told_to_be_a_first_impression(tmp_path: Path) -> None:
    said = ended(main, stored(tmp_path / "a", row()), stored(tmp_path / "b", row(p50=20)))
    assert "Fewer than three processes on a side: their spread is assumed." in said.stdout
    assert "python -m tools.repeat_runs --repeats 5" in said.stdout


# --- the gate ---


@pytest.mark.parametrize(
    ("p50", "allowed", "code"),
    [
        (10.6, "5%", 1),
        (10.5, "5%", 1),
        (10.5, "5", 1),
        (10.49, "5%", 0),
        (10.4, "3.5%", 1),
        (9.0, "5%", 0),
    ],
)
def test_a_case_that_is_slower_by_what_is_named_fails(tmp_path: Path, p50: float, allowed: str, code: int) -> None:
    said = compared(tmp_path, [row()], [row(p50=p50)], "--fail-slower", allowed)
    assert (said.returncode, said.stderr) == (code, "")
    assert ("FAILED depth_256-b1-fp16-torch: " in said.stdout) is (code == 1)
    percent = allowed.rstrip("%")
    assert said.stdout.endswith(f"--fail-slower {percent}%: judged 1 of 1 cases, {code} failed\n")


def test_noise_does_not_fail(tmp_path: Path) -> None:
    for name, medians in (("a", (9, 10, 11)), ("b", (9, 11, 12.5))):
        for index, p50 in enumerate(medians):
            stored(tmp_path / name / str(index), row(p50=p50))
    said = ended(main, tmp_path / "a", tmp_path / "b", "--fail-slower", "5%")
    assert said.returncode == 0
    assert "and the interval includes 1" in " ".join(said.stdout.split())


def test_what_spreads_too_much_to_fail_is_counted(tmp_path: Path) -> None:
    paths = [stored(tmp_path / name, row("a"), row("b", p50=p50, p90=14)) for name, p50 in (("a", 10), ("b", 11))]
    said = ended(main, *paths, "--fail-slower", "5%")
    assert said.returncode == 0
    assert said.stdout.endswith("judged 2 of 2 cases, 0 failed; 1 spread so much that 5% would not show\n")


@pytest.mark.parametrize("status", ["error", "oom"])
def test_a_case_that_failed_fails(tmp_path: Path, status: str) -> None:
    said = compared(
        tmp_path, [row("a"), row("b")], [row("a"), row("b", status=status, error="why")], "--fail-slower=5%"
    )
    assert said.returncode == 1
    assert f"FAILED b-b1-fp16-torch: {status} (why) in the candidate\n" in said.stdout


def test_a_case_that_fails_in_one_of_several_processes_fails(tmp_path: Path) -> None:
    for index in range(3):
        stored(tmp_path / "a" / str(index), row())
        stored(tmp_path / "b" / str(index), row(status="error" if index == 1 else "ok"))
    said = ended(main, tmp_path / "a", tmp_path / "b", "--fail-slower", "5%")
    assert said.returncode == 1
    assert "error in 1 of 3 processes of the candidate" in said.stdout


@pytest.mark.parametrize(("complete", "code"), [(False, 1), (True, 0)])
def test_a_case_that_is_missing_fails_if_the_candidate_was_cut_short(tmp_path: Path, complete: bool, code: int) -> None:
    paths = [stored(tmp_path / "a", row("a"), row("b")), stored(tmp_path / "b", row("a"), complete=complete)]
    said = ended(main, *paths, "--fail-slower", "5%")
    assert said.returncode == code
    assert ("FAILED b-b1-fp16-torch: missing, and" in said.stdout) is (code == 1)
    assert f"only in {paths[0]}: b-b1-fp16-torch" in said.stdout


def test_one_candidate_of_several_fails_the_gate(tmp_path: Path) -> None:
    paths = [stored(tmp_path / str(p50), row(p50=p50)) for p50 in (10, 10.1, 12)]
    said = ended(main, *paths, "--fail-slower", "5%")
    assert said.returncode == 1
    assert said.stdout.count("FAILED") == 1


@pytest.mark.parametrize(
    ("header", "after", "reason"),
    [
        ({"environment": {**MACHINE, "gpu": "NVIDIA L4"}}, row(), "another gpu: NVIDIA H200, then NVIDIA L4"),
        ({}, row(dtype_used="fp32", id=row().id), "another precision class: fp16, then fp32"),
        ({}, row(status="unstable"), "unstable in the candidate"),
        ({}, row("other"), "no case is in both"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_gate_that_can_judge_nothing_is_bad_input_and_writes_nothing(
    tmp_path: Path, header: dict[str, Any], after: CaseSummary, reason: str
) -> None:
    paths = [stored(tmp_path / "a", row()), stored(tmp_path / "b", after, **header)]
    said = ended(main, *paths, "--fail-slower", "5%", "-o", tmp_path / "c.json")
    assert (said.returncode, said.stdout) == (2, "")
    assert is_one_message(said.stderr)
    assert f"comparable cases=0 ({reason})" in said.stderr
    assert not (tmp_path / "c.json").exists()
    assert ended(main, *paths).returncode == 0, "without a gate there is nothing to fail"


@pytest.mark.parametrize("value", ["", "-5%", "5 %", "five", "5%%", "nan", "inf", "9" * 400, "1e3"])
def test_a_percentage_that_is_none_is_refused(tmp_path: Path, value: str) -> None:
    said = ended(main, tmp_path, tmp_path, f"--fail-slower={value}")
    assert said.returncode == 2
    assert is_one_message(said.stderr)
    assert "expected a percentage such as 5%" in said.stderr


@pytest.mark.parametrize("value", ["0", "2.9%"])
def test_a_percentage_within_which_all_is_a_tie_is_refused(tmp_path: Path, value: str) -> None:
    said = ended(main, tmp_path, tmp_path, f"--fail-slower={value}")
    assert said.returncode == 2
    assert is_one_message(said.stderr)
    assert "expected at least 3%: smaller differences are ties. Write 5%" in said.stderr


# --- bad input ---


@pytest.mark.parametrize("name", ["absent", "x" * 300, "empty", "text.json", "list.json"])
def test_what_is_no_run_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.json").write_text("half a {")
    (tmp_path / "list.json").write_text("[1, 2]")
    good = stored(tmp_path / "good", row())
    for paths in ((tmp_path / name, good), (good, tmp_path / name)):
        said = ended(main, *paths, "-o", tmp_path / "c.json")
        assert (said.returncode, said.stdout) == (2, "")
        assert is_one_message(said.stderr)
        assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize("output", ["absent/c.json", "good", "x" * 300])
def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path, output: str) -> None:
    good = stored(tmp_path / "good", row())
    said = ended(main, good, good, "-o", tmp_path / output)
    assert said.returncode == 2
    assert is_one_message(said.stderr)
    assert "expected a writable path. Choose another." in said.stderr


def test_what_looks_like_markup_is_shown_as_it_is(tmp_path: Path) -> None:
    strange = "a[/b][red]:smile:-b1"
    path = stored(tmp_path / "[x]", row(id=strange), row(id="only[/in]a"))
    said = ended(main, path, stored(tmp_path / "[/y]", row(id=strange)))
    assert said.returncode == 0
    shown = said.stdout.replace("│", "").replace("\n", "").replace(" ", "")
    for text in (strange, "only[/in]a", "[/y]"):
        assert text in shown


def test_a_path_of_any_bytes_is_compared(tmp_path: Path) -> None:
    path = stored(tmp_path / b"caf\xe9".decode(errors="surrogateescape"), row(), run_id="r")
    said = ended(main, path, path, "-o", tmp_path / "c.json")
    assert said.returncode == 0
    assert json.loads((tmp_path / "c.json").read_text())["pairs"][0]["baseline"]["path"].endswith("caf\ufffd")


DOCUMENT = json.loads(
    json.dumps({"run_id": "r", "complete": True, "environment": MACHINE, "run": {"protocol": {}}, "table": {}})
)
DOCUMENT["cases"] = [json.loads(row(variant).model_dump_json()) for variant in ("a", "b")]


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.sampled_from(places(DOCUMENT)), value=values | HOSTILE, other=st.booleans())
@example(place=("cases", 0, "latency_ms", "p50"), value=5e-324, other=False)
@example(place=("cases", 0, "latency_ms", "p90"), value=1e12, other=False)
@example(place=("cases", 0, "rounds"), value=10**400, other=False)
@example(place=("cases", 0, "memory", "gpu_used_mb", "steady"), value=1e308, other=True)
def test_any_value_in_any_place_is_compared_or_refused(
    tmp_path: Path, place: tuple[str | int, ...], value: object, other: bool
) -> None:
    """Against a sound run, or against itself."""
    damaged, sound, output = (tmp_path / name for name in ("damaged.json", "sound.json", "c.json"))
    damaged.write_text(with_value(DOCUMENT, place, value))
    sound.write_text(json.dumps(DOCUMENT))
    output.unlink(missing_ok=True)
    said = ended(main, damaged, sound if other else damaged, "-o", output)
    assert said.returncode in (0, 2)
    if said.returncode == 2:
        assert is_one_message(said.stderr), said.stderr
        assert not output.exists()
    else:
        jsonschema.validate(json.loads(output.read_text()), schema("comparison"))
