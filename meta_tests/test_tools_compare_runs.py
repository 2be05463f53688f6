"""`tools.compare_runs`: its output, its gate, and its refusals of damaged runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.records import CaseSummary, Comparison
from meta_tests.any_value import places, values
from meta_tests.conftest import Ended
from meta_tests.runs import (
    HOSTILE,
    MACHINE,
    Place,
    ended,
    in_every_place,
    is_one_message,
    latency,
    require_schema,
    row,
    stored,
    with_value,
)
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


def test_table_shows_every_case_and_comparison_fits_its_schema(tmp_path: Path) -> None:
    output = tmp_path / "comparison.json"
    said = compared(tmp_path, [row("a"), row("b"), row("c")], [row("a", p50=11), row("b"), row("d")], "-o", output)
    assert (said.returncode, said.stderr) == (0, "")
    for line in ("1 slower, 1 same", "only in", f"wrote {output}", "│ slower"):
        assert line in said.stdout
    assert "assumed" not in said.stdout
    document = json.loads(output.read_text())
    require_schema(document, "comparison")
    comparison = Comparison.model_validate(document)
    assert [case.verdict for case in comparison.pairs[0].cases] == ["slower", "same"]
    assert comparison.pairs[0].baseline.run_ids == ("0", "1", "2")


def test_notes_name_the_assumption_and_the_command(tmp_path: Path) -> None:
    said = ended(main, stored(tmp_path / "a", row()), stored(tmp_path / "b", row(p50=20)))
    assert "note: Fewer than three processes on a side: the spread between processes is assumed." in said.stdout
    assert "python -m tools.repeat_runs --repeats 5" in said.stdout


# --- the gate ---


@pytest.mark.parametrize(
    ("p50", "allowed", "code"),
    [
        (10.6, "5%", 1),
        (10.5, "5%", 1),
        (10.5, "5", 1),
        (10.45, "5%", 0),
        (10.4, "3.5%", 1),
        (9.0, "5%", 0),
    ],
)
def test_gate_fails_a_case_that_is_slower_by_the_limit(tmp_path: Path, p50: float, allowed: str, code: int) -> None:
    said = compared(tmp_path, [row()], [row(p50=p50)], "--fail-slower", allowed)
    assert (said.returncode, said.stderr) == (code, "")
    assert ("FAILED depth_256-b1-fp16-torch: slower by" in said.stdout) is (code == 1)
    outcome = "slower" if code else "passed"
    assert said.stdout.endswith(
        f"--fail-slower {allowed.rstrip('%')}%: judged 1 of 1 cases, {code} failed (1 {outcome})\n"
    )


def spread(folder: Path, *medians: float) -> Path:
    """A side of as many processes."""
    for index, p50 in enumerate(medians):
        stored(folder / str(index), row(p50=p50))
    return folder


def test_gate_fails_an_inconclusive_case_unless_it_is_allowed(tmp_path: Path) -> None:
    """Whether 11, 14, 20 ms are slower than 10, 10, 10 ms, three processes cannot tell."""
    sides = spread(tmp_path / "a", 10, 10, 10), spread(tmp_path / "b", 11, 14, 20)
    refused = ended(main, *sides, "--fail-slower", "5%")
    assert refused.returncode == 1
    why = "depth_256-b1-fp16-torch: inconclusive: the interval, 0.898 to 2.356, allows a slowdown of 5%; about 7"
    assert f"FAILED {why}" in refused.stdout
    assert "judged 1 of 1 cases, 1 failed (1 inconclusive)\n" in refused.stdout
    assert "tools.repeat_runs, or pass --allow-inconclusive" in refused.stdout
    allowed = ended(main, *sides, "--fail-slower", "5%", "--allow-inconclusive")
    assert allowed.returncode == 0
    assert f"ALLOWED {why}" in allowed.stdout
    assert allowed.stdout.endswith("judged 1 of 1 cases, 0 failed (1 inconclusive)\n")


def test_gate_passes_an_inconclusive_case_that_excludes_the_slowdown(tmp_path: Path) -> None:
    sides = spread(tmp_path / "a", 10, 10.1, 10.2), spread(tmp_path / "b", 10.2, 10.3, 10.4)
    said = ended(main, *sides, "--fail-slower", "5%")
    assert said.returncode == 0
    assert "PASSED depth_256-b1-fp16-torch: inconclusive, but the interval, 0.997 to 1.043, excludes" in said.stdout


def test_allowing_inconclusive_cases_lets_no_slower_or_failed_one_pass(tmp_path: Path) -> None:
    after = [row("a", p50=11), row("b", status="error", error="why")]
    said = compared(tmp_path, [row("a"), row("b")], after, "--fail-slower=5%", "--allow-inconclusive")
    assert said.returncode == 1
    assert "FAILED a-b1-fp16-torch: slower by 10.0%" in said.stdout
    assert "FAILED b-b1-fp16-torch: error (why) in the candidate\n" in said.stdout
    assert said.stdout.endswith("judged 2 of 2 cases, 2 failed (1 slower, 1 failed)\n")


def test_allowing_inconclusive_cases_without_a_gate_is_refused(tmp_path: Path) -> None:
    said = ended(main, tmp_path, tmp_path, "--allow-inconclusive")
    assert said.returncode == 2
    assert is_one_message(said.stderr)


@pytest.mark.parametrize(("complete", "code"), [(False, 1), (True, 0)])
def test_gate_fails_a_case_missing_from_a_run_that_was_cut_short(tmp_path: Path, complete: bool, code: int) -> None:
    paths = [stored(tmp_path / "a", row("a"), row("b")), stored(tmp_path / "b", row("a"), complete=complete)]
    said = ended(main, *paths, "--fail-slower", "5%")
    assert said.returncode == code
    assert ("FAILED b-b1-fp16-torch: missing, and" in said.stdout) is (code == 1)
    assert f"judged 1 of 1 cases, {code} failed" in said.stdout
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
        ({}, row(status="unstable"), "unstable in the candidate"),
        ({}, row("other"), "no case is in both"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_gate_that_can_judge_no_case_is_bad_input_and_writes_nothing(
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
def test_limit_that_is_no_percentage_is_refused(tmp_path: Path, value: str) -> None:
    said = ended(main, tmp_path, tmp_path, f"--fail-slower={value}")
    assert said.returncode == 2
    assert is_one_message(said.stderr)
    assert "expected a percentage such as 5%" in said.stderr


@pytest.mark.parametrize("value", ["0", "2.9%"])
def test_limit_below_the_difference_that_matters_is_refused(tmp_path: Path, value: str) -> None:
    said = ended(main, tmp_path, tmp_path, f"--fail-slower={value}")
    assert said.returncode == 2
    assert is_one_message(said.stderr)
    assert "expected at least 3%: smaller differences get no verdict. Write 5%" in said.stderr


# --- bad input ---


@pytest.mark.parametrize("name", ["absent", "x" * 300, "empty", "text.json", "list.json"])
def test_file_or_folder_that_is_no_run_is_refused(tmp_path: Path, name: str) -> None:
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
def test_output_that_cannot_be_written_is_refused(tmp_path: Path, output: str) -> None:
    good = stored(tmp_path / "good", row())
    said = ended(main, good, good, "-o", tmp_path / output)
    assert said.returncode == 2
    assert is_one_message(said.stderr)
    assert "expected a writable path. Choose another." in said.stderr


def test_ids_and_paths_that_look_like_markup_are_shown_as_they_are(tmp_path: Path) -> None:
    strange = "a[/b][red]:smile:-b1"
    path = stored(tmp_path / "[x]", row(id=strange), row(id="only[/in]a"))
    said = ended(main, path, stored(tmp_path / "[/y]", row(id=strange)))
    assert said.returncode == 0
    shown = said.stdout.replace("│", "").replace("\n", "").replace(" ", "")
    for text in (strange, "only[/in]a", "[/y]"):
        assert text in shown


def test_path_of_any_bytes_is_compared(tmp_path: Path) -> None:
    path = stored(tmp_path / b"caf\xe9".decode(errors="surrogateescape"), row(), run_id="r")
    said = ended(main, path, path, "-o", tmp_path / "c.json")
    assert said.returncode == 0
    assert json.loads((tmp_path / "c.json").read_text())["pairs"][0]["baseline"]["path"].endswith("caf\ufffd")


DOCUMENT = json.loads(
    json.dumps({"run_id": "r", "complete": True, "environment": MACHINE, "run": {"protocol": {}}, "table": {}})
)
DOCUMENT["cases"] = [json.loads(row(variant).model_dump_json()) for variant in ("a", "b")]
PLACES = [place for place in places(DOCUMENT) if place[:2] != ("cases", 1)]  # the other case has the same ones


def compared_or_refused(folder: Path, place: Place, value: object, other: bool) -> None:
    """Compare a damaged run with a sound one, or with itself; it fits its schema, or ends with code 2."""
    damaged, sound, output = (folder / name for name in ("damaged.json", "sound.json", "c.json"))
    damaged.write_text(with_value(DOCUMENT, place, value))
    sound.write_text(json.dumps(DOCUMENT))
    output.unlink(missing_ok=True)
    said = ended(main, damaged, sound if other else damaged, "-o", output)
    assert said.returncode in (0, 2), (place, value)
    if said.returncode == 2:
        assert is_one_message(said.stderr), said.stderr
        assert not output.exists()
    else:
        require_schema(json.loads(output.read_text()), "comparison")


@pytest.mark.parametrize(
    ("place", "value", "other"),
    [
        (("cases", 0, "latency_ms", "p50"), 5e-324, False),
        (("cases", 0, "latency_ms", "p90"), 1e12, False),
        (("cases", 0, "rounds"), 10**400, False),
        (("cases", 0, "memory", "gpu_used_mb", "steady"), 1e308, True),
    ],
    ids=str,
)
def test_value_beyond_what_floats_divide_is_compared_or_refused(
    tmp_path: Path, place: Place, value: object, other: bool
) -> None:
    compared_or_refused(tmp_path, place, value, other)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(damages=in_every_place(PLACES, st.tuples(values | HOSTILE, st.booleans())))
def test_any_value_in_every_place_is_compared_or_refused(tmp_path: Path, damages: tuple[Any, ...]) -> None:
    for place, (value, other) in damages:
        compared_or_refused(tmp_path, place, value, other)
