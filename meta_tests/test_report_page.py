"""The page of a stored run: its order, its numbers, and that it is well-formed, offline, accessible and escaped."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fixtures.decision import choose
from fixtures.errors import InputError
from fixtures.records import Memory
from fixtures.report import read_material, render
from fixtures.results.rows import read_results
from fixtures.results.summary import summarize
from meta_tests.any_value import places
from meta_tests.conftest import cpu_seconds, slowness
from meta_tests.report_pages import (
    HOSTILE,
    STORED,
    Page,
    another_run,
    everything,
    headings,
    hostile_run,
    page_of,
    stored_run,
    telemetry_case,
    written,
)
from meta_tests.result_rows import case

MAX_CPU_S = 5.0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored_run(tmp_path_factory.mktemp("stored"), "h200")


@pytest.fixture(scope="module")
def ended(run: Path) -> tuple[subprocess.CompletedProcess[str], float]:
    """The tool in an environment without torch, and the seconds of CPU time that it took."""
    program = (
        "import runpy, sys\n"
        "for name in ('torch', 'rich', 'pytest', 'onnxruntime', 'pandas'): sys.modules[name] = None\n"
        "sys.argv[0] = 'render_report'\n"
        "runpy.run_module('tools.render_report', run_name='__main__')"
    )
    baseline, manifest = another_run(run, 1.2), STORED / "h200" / "manifest.json"
    options = ["--compare", str(baseline), "--manifest", str(manifest), "-o", str(run.parent / "report.html")]
    return cpu_seconds([sys.executable, "-c", program, str(run), *options])


@pytest.fixture(scope="module")
def page(run: Path, ended: tuple[subprocess.CompletedProcess[str], float]) -> Page:
    assert ended[0].returncode == 0, ended[0].stderr
    return Page((run.parent / "report.html").read_text())


def test_page_of_60_cases_takes_5_cpu_seconds_without_torch(
    ended: tuple[subprocess.CompletedProcess[str], float],
) -> None:
    done, cpu_s = ended
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"wrote .*report\.html: 60 cases, \d\.\d MiB\n", done.stdout)
    assert not done.stderr
    assert cpu_s < MAX_CPU_S * slowness()


def test_decision_is_the_first_section(page: Page) -> None:
    keys = [section.attributes["id"] for section in page.all("section")]
    assert keys == [
        *("decision", "comparison", "batch", "input-size", "memory", "runtimes", "cold-start", "telemetry"),
        *("latency-waterfall", "error-waterfall", "environment", "all-cases", "rounds", "notes"),
    ]
    links = [link.attributes["href"] for link in page.all("nav")[0].all("a")]
    assert links == [f"#{key}" for key in keys]


def test_decision_shows_branches_with_their_figures(page: Page) -> None:
    assert "Deploy 3 branches for depth and 3 branches for flow." in page.section("decision").text
    chosen = page.table("Branches to deploy")
    assert [row["role"] for row in chosen] == [
        f"{role}, {place}" for role in ("depth", "flow") for place in ("small", "medium", "large")
    ]
    assert chosen[1] == {
        "branch": "midas_hybrid_384",
        "role": "depth, medium",
        "runtime": "onnxruntime",
        "batch": "8",
        "dtype": "fp16",
        "p50 ms": "17.0",
        "p95 ms": "17.3",
        "throughput items/s": "469.8",
        "cost ms/item": "2.13",
        "memory MiB": "506",
        "instances per GPU": "267",
        "grows until batch": "(8)",
        "on Triton": "as it is",
        "for comparison": "torch-compile: 0.42 ×, torch-graph: 0.81 ×, torch: 0.86 ×, onnxruntime-graph: 0.89 ×",
    }
    assert len(page.table("Rejected for depth")) == 27
    assert page.table("Pareto front of depth")


def test_head_names_machine_and_weights(page: Page) -> None:
    facts = {one.all("dt")[0].text: one.all("dd")[0].text for one in page.all("dl")[0].all("div")}
    assert facts == {
        "run": "fp16",
        "GPU": "NVIDIA H200",
        "driver": "580.159.04",
        "torch": "2.11.0",
        "ONNX Runtime": "1.31.1",
        "spec": "onnxruntime_gpu",
        "dtype": "fp16",
        "cases": "60 ok",
        "date": "not recorded",
    }
    assert "Weights are synthetic: latencies are valid, outputs are meaningless." in page.all("header")[0].text


def test_comparison_has_a_verdict_for_each_case(page: Page, run: Path) -> None:
    rows = page.table(f"{run} against")
    verdicts = [row["verdict"] for row in rows]
    assert {verdict: verdicts.count(verdict) for verdict in set(verdicts)} == {
        "faster": 58,
        "inconclusive": 1,
        "not comparable": 1,
    }
    assert (rows[0]["ratio"], rows[0]["p50 before ms"], rows[0]["p50 after ms"]) == ("0.8333", "4.266", "3.555")
    assert (rows[3]["ratio"], rows[3]["why"]) == ("–", "error (boom) in the baseline")


def test_comparison_explains_and_draws_an_inconclusive_case(page: Page, run: Path) -> None:
    section = page.section("comparison")
    assert "Inconclusive: the interval allows a change of 3% or more and also a smaller one" in section.text
    (row,) = [row for row in page.table(f"{run} against") if row["verdict"] == "inconclusive"]
    assert "processes a side would tell" in row["why"]
    assert "inconclusive" in [entry.text for entry in section.all("ul")[0].all("li")]
    drawn = [one for figure in page.json("figures").values() for one in figure["series"]]
    assert [len(one["x"]) for one in drawn if one["name"] == "inconclusive"] == [1]


def test_page_without_baseline_has_no_comparison(tmp_path: Path) -> None:
    document = page_of(written(tmp_path, summarize([case()], run_id="run", complete=True)))
    assert not [one for one in document.all("section") if one.attributes["id"] == "comparison"]


def test_page_holds_every_round(page: Page, run: Path) -> None:
    reading = read_results((run / "results.jsonl").read_text().splitlines())
    rounds = page.json("all-rounds")
    assert list(rounds) == [result.facts.id for result in reading.results]
    for result in reading.results:
        stored = np.frombuffer(base64.b64decode(rounds[result.facts.id]), dtype="<f4")
        np.testing.assert_array_equal(stored, np.asarray(result.rounds_ms, dtype=np.float32))
    assert "All 27,115 timed rounds of 60 cases" in page.section("rounds").text
    assert len(page.all("option")) == 60


def test_every_chart_has_unit_finding_and_marks(page: Page) -> None:
    figures = page.json("figures")
    plots = [one for one in page.all("div") if "data-chart" in one.attributes]
    assert [one.attributes["data-chart"] for one in plots] == list(figures)
    assert len(figures) > 40
    for drawn in figures.values():
        assert drawn["x"]["title"] or drawn["y"]["title"]
        assert drawn["series"]
        for series in drawn["series"]:
            assert len(series["x"]) == len(series["y"]) == len(series["hover"]) > 0
            # Colours are names of the style, so that they change with it.
            assert re.fullmatch(r"series-[1-8]|good|bad|muted|warn-edge", series["colour"])
    for image in page.all("figure"):
        assert image.attributes["role"] == "img"
        assert len(image.attributes["aria-label"] or "") > 20


def test_screen_reader_finds_structure_and_names(page: Page) -> None:
    (document,) = page.all("html")
    assert document.attributes["lang"] == "en"
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("nav")) == 1
    levels = [int(one.tag[1]) for one in page.root.all("body")[0].children for one in headings(one)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [one.attributes["id"] for one in everything(page.root) if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    for one in everything(page.root):
        if one.tag == "a":
            assert (one.attributes["href"] or "").removeprefix("#") in ids
        if "aria-labelledby" in one.attributes:
            assert one.attributes["aria-labelledby"] in ids
    for table in page.all("table"):
        assert table.children[0].tag == "caption"
        assert table.children[0].text
        assert all(one.attributes["scope"] == "col" for one in table.all("thead")[0].all("th"))
        assert all(one.all("button") for one in table.all("thead")[0].all("th"))
        assert all(row.children[0].attributes["scope"] == "row" for row in table.all("tbody")[0].all("tr"))


def test_page_makes_no_network_request(page: Page) -> None:
    (policy,) = [one for one in page.all("meta") if one.attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy.attributes["content"] == (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    for one in everything(page.root):
        assert not {"src", "srcset", "data", "action", "poster"} & set(one.attributes)
        assert (one.attributes.get("href") or "#").startswith(("#", "data:,"))
    (style,) = page.all("style")
    assert "url(" not in style.text
    assert "@import" not in style.text


def test_text_of_files_is_never_markup(tmp_path: Path) -> None:
    folder = hostile_run(tmp_path / "run")
    document = page_of(folder, baseline=folder)
    ordinary = page_of(written(tmp_path / "plain", summarize([case()], run_id="run", complete=True)))
    assert [one.attributes for one in document.all("script")] == [one.attributes for one in ordinary.all("script")]
    assert not document.all("img")
    assert list(document.json("all-rounds")) == [f"{HOSTILE}-b1"]
    for key in ("decision", "comparison", "all-cases", "environment", "notes"):
        assert HOSTILE in document.section(key).text
    assert document.table("All 3 cases")[2]["remarks"] == HOSTILE
    # Plotly interprets tags in names and texts.
    assert "<" not in json.dumps(document.json("figures"))


# --- damaged files ---

DAMAGES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 1e-300, 1e300, -1e300, 10**9, 10**40, "", "x", HOSTILE, "\ud800", "2026-13-40"),
    *([], [1, "x", None], [[1e300]], {}, {"x": HOSTILE}, {HOSTILE: [None]}),
)
TURNS = 3  # values that each place is damaged with; all values occur, each in about every seventh place


def damaged_files() -> dict[str, Any]:
    """A summary and its choice with every kind of field."""
    summary = summarize([], run_id="run", complete=True, environment={"gpu": "X", "gpu_memory_mb": 80000})
    cases = (telemetry_case(1.7e9), telemetry_case(1.8e9, batch=8, runtime="onnxruntime"))
    summary = summary.model_copy(update={"cases": cases})
    return {
        "summary": json.loads(summary.model_dump_json()),
        "choice": json.loads(choose(summary, {}).model_dump_json()),
    }


@pytest.mark.parametrize("name", ["summary", "choice"])
def test_any_value_anywhere_is_rendered_or_refused(tmp_path: Path, name: str) -> None:
    refused = rendered = 0
    for index, place in enumerate(places(damaged_files()[name])):
        for turn in range(TURNS):
            files = damaged_files()
            if name == "summary":
                del files["choice"]
            damage(files[name], place, DAMAGES[(TURNS * index + turn) % len(DAMAGES)])
            for file, content in files.items():
                (tmp_path / f"{file}.json").write_text(json.dumps(content))
            try:
                html = render(read_material(tmp_path, None, None, None))
            except InputError:
                refused += 1
            else:
                rendered += 1
                assert html.startswith("<!doctype html>")
                assert html.count("<script") == 7
    assert min(refused, rendered) > 50


def test_difference_that_overflows_is_not_drawn(tmp_path: Path) -> None:
    stages = {"context": 0.0, "loaded": -1e308, "first_call": 1e308, "steady": 1e308}
    memory = Memory(source="fresh_process", gpu_used_mb=stages)
    summary = summarize([case(memory=memory)], run_id="run", complete=True)
    document = page_of(written(tmp_path, summary))
    parts = {series["name"]: series["x"] for series in document.json("figures")["Memory-0-0"]["series"]}
    assert parts["workspace"] == [None]


def damage(content: Any, place: tuple[str | int, ...], value: object) -> None:
    for key in place[:-1]:
        content = content[key]
    content[place[-1]] = value
