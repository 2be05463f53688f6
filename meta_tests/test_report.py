"""The report as a file: what it says, in which order, of whatever a run lacks, and that nothing in it is trusted."""

from __future__ import annotations

import base64
import gzip
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.decision import choose
from fixtures.errors import InputError
from fixtures.records import CaseSummary, ColdStart, Memory, Served, Summary, Telemetry, TelemetrySeries
from fixtures.report import read_material, render
from fixtures.report.cold_start import cold_parts
from fixtures.report.memory import split_of
from fixtures.report.number_format import duration, figure
from fixtures.report.series import Series, Style
from fixtures.results.rows import read_results
from fixtures.results.summary import summarize, summarize_case
from fixtures.spec.budget import Budget
from meta_tests.any_value import places, values
from meta_tests.conftest import HANGS_S, ROOT, cpu_seconds, slowness
from meta_tests.result_rows import case, lines

STORED = ROOT / "meta_tests" / "data"
HOSTILE = """</script><script>alert(1)</script><img src=x onerror="alert(2)">'"&amp;`%{x}"""
MAX_CPU_S = 5.0
_VOID = {"meta", "link", "br", "img", "input", "hr"}


class Element:
    """An element with its attributes, children and text."""

    def __init__(self, tag: str, attributes: dict[str, str | None], parent: Element | None) -> None:
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.content: list[str | Element] = []

    def all(self, tag: str) -> list[Element]:
        found = [self] if self.tag == tag else []
        return found + [one for child in self.children for one in child.all(tag)]

    @property
    def children(self) -> list[Element]:
        return [one for one in self.content if isinstance(one, Element)]

    @property
    def text(self) -> str:
        return "".join(one if isinstance(one, str) else one.text for one in self.content)


class Page(HTMLParser):
    """A document, as strict as the pages are written: what is opened is closed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("document", {}, None)
        self._open = self.root
        self.feed(html)
        self.close()
        assert self._open is self.root

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs), self._open)
        assert len(attrs) == len(element.attributes), f"an attribute stands twice in {tag}"
        self._open.content.append(element)
        if tag not in _VOID:
            self._open = element

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open.content.append(Element(tag, dict(attrs), self._open))

    def handle_endtag(self, tag: str) -> None:
        assert tag == self._open.tag, f"{tag} closes {self._open.tag}"
        assert self._open.parent is not None
        self._open = self._open.parent

    def handle_data(self, data: str) -> None:
        self._open.content.append(data)

    def all(self, tag: str) -> list[Element]:
        return self.root.all(tag)

    def section(self, key: str) -> Element:
        (found,) = [one for one in self.all("section") if one.attributes["id"] == key]
        return found

    def json(self, key: str) -> Any:
        (found,) = [one for one in self.all("script") if one.attributes.get("id") == key]
        return json.loads(found.text)

    def table(self, caption: str) -> list[dict[str, str]]:
        """Rows of the table whose caption begins so, by heading."""
        (found,) = [one for one in self.all("table") if one.all("caption")[0].text.startswith(caption)]
        headings = [one.text for one in found.all("thead")[0].all("th")]
        rows = found.all("tbody")[0].all("tr")
        return [dict(zip(headings, [cell.text for cell in row.children], strict=True)) for row in rows]


def stored_run(folder: Path, name: str) -> Path:
    """A stored run as its folder was."""
    run = folder / name
    run.mkdir()
    (run / "summary.json").write_bytes((STORED / name / "summary.json").read_bytes())
    (run / "results.jsonl").write_bytes(gzip.decompress((STORED / name / "results.jsonl.gz").read_bytes()))
    return run


def another_run(folder: Path, factor: float) -> Path:
    """The stored run again, slower by this factor and with a case that failed."""
    document = json.loads((STORED / "h200" / "summary.json").read_text())
    document["run_id"] = "before"
    for one in document["cases"]:
        one["latency_ms"] = {key: value and value * factor for key, value in one["latency_ms"].items()}
    document["cases"][3] |= {"status": "error", "error": "boom", "latency_ms": None, "throughput_items_per_s": None}
    run = folder / "before"
    run.mkdir()
    (run / "summary.json").write_text(json.dumps(document))
    return run


def written(folder: Path, summary: Summary) -> Path:
    """The folder of a run that has a summary alone."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(summary.model_dump_json())
    return folder


def page_of(run: Path, **named: Path) -> Page:
    files = {"baseline": None, "choice": None, "manifest": None, **named}
    return Page(render(read_material(run, **files)))


def hostile_summary() -> Summary:
    """Names, notes and errors that would be markup if anything were trusted."""
    facts: dict[str, Any] = {"id": f"{HOSTILE}-b1", "notes": (HOSTILE,), "component_id": HOSTILE, "unit": HOSTILE}
    failed: dict[str, Any] = {"id": HOSTILE, "status": "error", "error": HOSTILE, "component_id": HOSTILE}
    results = [
        case(HOSTILE, runtime=HOSTILE, **facts),
        case(HOSTILE, batch=2, component_id=HOSTILE),
        case(rounds=0, **failed),
    ]
    return summarize(
        results,
        run_id=HOSTILE,
        complete=True,
        environment={"gpu": HOSTILE, HOSTILE: HOSTILE},
        run={"spec": HOSTILE, HOSTILE: [HOSTILE]},
        notes=(HOSTILE,),
    )


def hostile_run(folder: Path) -> Path:
    """The same with rounds."""
    rows = "\n".join(lines(case(HOSTILE, id=f"{HOSTILE}-b1")))
    written(folder, hostile_summary())
    (folder / "results.jsonl").write_text(rows.replace('"run_id":"run"', f'"run_id":{json.dumps(HOSTILE)}'))
    return folder


# --- the tool ---


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored_run(tmp_path_factory.mktemp("stored"), "h200")


@pytest.fixture(scope="module")
def ended(run: Path) -> tuple[subprocess.CompletedProcess[str], float]:
    """The tool as a person runs it where there is no torch, and the seconds of CPU time that it took."""
    program = (
        "import runpy, sys\n"
        "for name in ('torch', 'pytest', 'onnxruntime', 'pandas'): sys.modules[name] = None\n"
        "sys.argv[0] = 'render_report'\n"
        "runpy.run_module('tools.render_report', run_name='__main__')"
    )
    baseline, manifest = another_run(run.parent, 1.2), STORED / "h200" / "manifest.json"
    options = ["--compare", str(baseline), "--manifest", str(manifest), "-o", str(run.parent / "report.html")]
    command = [sys.executable, "-c", program, str(run), *options]
    return cpu_seconds(command)


@pytest.fixture(scope="module")
def html(run: Path, ended: tuple[subprocess.CompletedProcess[str], float]) -> str:
    assert ended[0].returncode == 0, ended[0].stderr
    return (run.parent / "report.html").read_text()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_sixty_cases_with_all_their_rounds_take_less_than_five_seconds_without_torch(
    ended: tuple[subprocess.CompletedProcess[str], float],
) -> None:
    done, cpu_s = ended
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"wrote .*report\.html: 60 cases, \d\.\d MiB\n", done.stdout)
    assert not done.stderr
    assert cpu_s < MAX_CPU_S * slowness()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("run", "missing: file=No such file or directory, expected a readable file."),
        ("output", "report.html: file=No such file or directory, expected a writable path."),
    ],
)
def test_bad_input_ends_with_one_message_and_code_2(run: Path, tmp_path: Path, name: str, says: str) -> None:
    paths = {"run": run, "output": tmp_path / "report.html"} | {name: tmp_path / "missing"}
    output = paths["output"] if name != "output" else tmp_path / "missing" / "report.html"
    command = [sys.executable, "-m", "tools.render_report", str(paths["run"]), "-o", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("ERROR: ")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "content", "says"),
    [
        ("choice", "{}", "run_id=Field required, expected a choice of this suite"),
        ("choice", None, "file=No such file or directory"),
        ("manifest", '{"files": 7}', "files=Input should be an object, expected what the export gate wrote"),
        ("manifest", None, "file=No such file or directory, expected the manifest of exported files"),
        ("baseline", "", "expected rows of this suite"),
    ],
)
def test_a_file_that_is_something_else_is_refused(tmp_path: Path, option: str, content: str | None, says: str) -> None:
    folder = written(tmp_path / "run", summarize([case()], run_id="run", complete=True))
    if content is not None:
        (tmp_path / "file.json").write_text(content)
    with pytest.raises(InputError, match=re.escape(says)):
        page_of(folder, **{option: tmp_path / "file.json"})


def test_the_choice_of_another_run_is_refused(tmp_path: Path) -> None:
    summary = summarize([case()], run_id="run", complete=True)
    other = summary.model_copy(update={"run_id": "other"})
    (tmp_path / "choice.json").write_text(choose(other, {}).model_dump_json())
    with pytest.raises(InputError, match=r"choice\.json: run_id=other, expected a choice from run run\. Choose again"):
        page_of(written(tmp_path, summary))


# --- what a reader sees ---


def test_the_decision_stands_first_and_everything_follows_in_order(page: Page) -> None:
    keys = [section.attributes["id"] for section in page.all("section")]
    assert keys == [
        *("decision", "comparison", "batch", "size", "memory", "runtimes", "cold", "telemetry"),
        *("latency-waterfall", "error-waterfall", "environment", "cases", "rounds", "notes"),
    ]
    links = [link.attributes["href"] for link in page.all("nav")[0].all("a")]
    assert links == [f"#{key}" for key in keys]


def test_what_to_deploy_is_said_with_its_figures(page: Page) -> None:
    assert "Deploy 3 branches for depth and 3 branches for flow." in page.section("decision").text
    chosen = page.table("Branches to deploy")
    assert [row["role"] for row in chosen] == [
        f"{role}, {place}" for role in ("depth", "flow") for place in ("small", "medium", "large")
    ]
    assert chosen[1] == {
        "branch": "midas_hybrid_384",
        "role": "depth, medium",
        "runtime": "torch-compile",
        "batch": "8",
        "precision": "fp16",
        "p50 ms": "7.13",
        "p95 ms": "7.42",
        "throughput items/s": "1,123",
        "cost ms/item": "0.891",
        "memory MiB": "1,388",
        "instances per GPU": "97",
        "grows until batch": "(8)",
        "on Triton": "onnxruntime, batch 8",
    }
    assert len(page.table("Rejected for depth")) == 27
    assert page.table("Pareto front of depth")


def test_the_machine_and_the_weights_stand_above_everything(page: Page) -> None:
    facts = {one.all("dt")[0].text: one.all("dd")[0].text for one in page.all("dl")[0].all("div")}
    assert facts == {
        "run": "fp16",
        "GPU": "NVIDIA H200",
        "driver": "580.159.04",
        "torch": "2.11.0",
        "ONNX Runtime": "1.31.1",
        "spec": "onnxruntime_gpu",
        "precision": "fp16",
        "cases": "60 ok",
        "date": "not recorded",
    }
    assert "Weights are synthetic: latencies count, outputs mean nothing." in page.all("header")[0].text


def test_a_comparison_has_a_verdict_for_each_case(page: Page, run: Path) -> None:
    rows = page.table(f"{run} against")
    assert len(rows) == 60
    verdicts = [row["verdict"] for row in rows]
    assert {verdict: verdicts.count(verdict) for verdict in set(verdicts)} == {
        "faster": 58,
        "inconclusive": 1,
        "not comparable": 1,
    }
    assert (rows[0]["ratio"], rows[0]["p50 before ms"], rows[0]["p50 after ms"]) == ("0.8333", "4.266", "3.555")
    assert (rows[3]["ratio"], rows[3]["why"]) == ("–", "error (boom) in the baseline")
    assert not [one for one in page_of(run).all("section") if one.attributes["id"] == "comparison"]


def test_every_round_is_in_the_page(page: Page, run: Path) -> None:
    reading = read_results((run / "results.jsonl").read_text().splitlines())
    rounds = page.json("all-rounds")
    assert list(rounds) == [result.facts.id for result in reading.results]
    for result in reading.results:
        stored = np.frombuffer(base64.b64decode(rounds[result.facts.id]), dtype="<f4")
        np.testing.assert_array_equal(stored, np.asarray(result.rounds_ms, dtype=np.float32))
    assert "All 27,115 timed rounds of 60 cases" in page.section("rounds").text
    assert len(page.all("option")) == 60


def test_every_chart_has_its_units_its_finding_and_its_data(page: Page) -> None:
    figures = page.json("figures")
    plots = [one for one in page.all("div") if "data-chart" in one.attributes]
    assert [one.attributes["data-chart"] for one in plots] == list(figures)
    assert len(figures) > 40
    for drawn in figures.values():
        titles = [drawn["layout"][name].get("title", {}).get("text") for name in ("xaxis", "yaxis")]
        assert any(titles)
        assert all(drawn["data"])
    for image in page.all("figure"):
        assert image.attributes["role"] == "img"
        assert len(image.attributes["aria-label"] or "") > 20
    # Colours are names of the style, so that they change with it.
    assert not re.search(r'color":"#', json.dumps(figures, separators=(",", ":")))


def test_cold_start_waterfalls_and_memory_of_a_served_run(tmp_path: Path) -> None:
    served = page_of(stored_run(tmp_path, "h100_served"), manifest=STORED / "h100_served")
    hops = served.table("Medians, hop by hop")
    assert [(row["hop"], row["at the hop ms"]) for row in hops][-1] == ("client, http", "9.49")
    (waterfall,) = served.section("latency-waterfall").all("figure")
    assert "serving tax 161% over ONNX Runtime" in (waterfall.attributes["aria-label"] or "")
    (row,) = [row for row in served.table("Cold start") if row["runtime"] == "triton"]
    assert (row["start server ms"], row["prepare ms"]) == ("13,280", "1,258")
    assert len(served.table("Relative L2 error, hop by hop")) == 8
    assert "Every case has one bar: stages in between were not read." in served.section("memory").text
    for key in ("batch", "size"):
        assert "Measured at one" in served.section(key).text
        assert not served.section(key).all("figure")


# --- a page is well made ---


def test_the_page_can_be_read_without_seeing_it(page: Page) -> None:
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


def everything(element: Element) -> list[Element]:
    return [element, *(one for child in element.children for one in everything(child))]


def headings(element: Element) -> list[Element]:
    return [one for one in everything(element) if re.fullmatch("h[1-6]", one.tag)]


def test_nothing_is_asked_of_any_network(page: Page) -> None:
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


def test_what_files_say_is_never_markup(tmp_path: Path) -> None:
    folder = hostile_run(tmp_path / "run")
    document = page_of(folder, baseline=folder)
    ordinary = page_of(written(tmp_path / "plain", summarize([case()], run_id="run", complete=True)))
    assert [one.attributes for one in document.all("script")] == [one.attributes for one in ordinary.all("script")]
    assert not document.all("img")
    assert list(document.json("all-rounds")) == [f"{HOSTILE}-b1"]
    for key in ("decision", "comparison", "cases", "environment", "notes"):
        assert HOSTILE in document.section(key).text
    assert document.table("All 3 cases")[2]["remarks"] == HOSTILE
    # Plotly reads tags in what it is given.
    assert "<" not in json.dumps(document.json("figures")).replace("<extra></extra>", "")


# --- what a run lacks ---


def test_a_run_without_rounds_says_what_would_give_them(tmp_path: Path) -> None:
    document = page_of(written(tmp_path, summarize([case()], run_id="run", complete=True)))
    assert "There is no results.jsonl beside the summary" in document.section("rounds").text
    assert "pytest bench_tests" in document.section("rounds").text
    assert not document.section("rounds").all("select")
    assert document.json("all-rounds") == {}


def test_a_run_without_anything_still_is_a_page(tmp_path: Path) -> None:
    nothing = summarize([case(rounds=0, status="oom", memory=None)], run_id="run", complete=False)
    document = page_of(written(tmp_path, nothing))
    for key, says in {
        "decision": "No branch can be deployed for depth; why stands below.",
        "batch": "No case has a time.",
        "size": "No case has a time.",
        "memory": "No case has its memory.",
        "runtimes": "Not measured in this run: torch, onnxruntime, triton.",
        "cold": "No case has its cold start",
        "telemetry": "No case has telemetry.",
        "latency-waterfall": "Nothing was served.",
        "error-waterfall": "No manifest was named: --manifest models/optimized/manifest.json.",
        "environment": "does not say on which machine",
    }.items():
        assert says in document.section(key).text
        assert not document.section(key).all("figure")
    assert "The run is not complete" in document.all("header")[0].text
    assert "1 case has failed or did not fit into memory" in document.all("header")[0].text


def test_a_budget_that_nothing_keeps_names_the_nearest_miss(tmp_path: Path, run: Path) -> None:
    summary = Summary.model_validate_json((run / "summary.json").read_text())
    choice = tmp_path / "choice.json"
    choice.write_text(choose(summary, {"depth": Budget(p95_ms=0.5)}, "mine").model_dump_json())
    decision = page_of(run, choice=choice).section("decision").text
    assert "No branch can be deployed for depth; why stands below." in decision
    assert "Budget: p95_ms 0.5." in decision
    assert "Nothing is feasible. Nearest is midas_small_256-b1-fp16-torch-compile, 81% over: p95 0.91 ms" in decision
    assert "read from choice.json, with the budgets of spec mine" in decision


def telemetry_case(start_s: float, **facts: Any) -> CaseSummary:
    times = tuple(start_s + index / 10 for index in range(3))
    series = TelemetrySeries(
        at_s=times, sm_clock_mhz=(1980, None, 1900), temperature_c=(40, 41, 42), power_w=(None, None, None)
    )
    seen = Telemetry(samples=3, sm_clock_mhz=(1900, 1940, 1980), temperature_c=(40, 41, 42), series=series)
    return summarize_case(case(telemetry=seen, **facts))


@pytest.mark.parametrize(
    ("started_at", "shown"),
    [("2026-11-25T04:00:30+02:00", "2026-11-25 02:00 UTC"), ("yesterday", "not recorded"), (None, "not recorded")],
)
def test_the_head_says_when_the_run_was_started(tmp_path: Path, started_at: str | None, shown: str) -> None:
    summary = summarize([case()], run_id="run", complete=True, run={"started_at": started_at})
    assert shown in page_of(written(tmp_path, summary)).all("header")[0].text


def test_telemetry_is_drawn_over_time(tmp_path: Path) -> None:
    start_s = 1_700_000_000.0
    summary = summarize([], run_id="run", complete=True)
    cases = (telemetry_case(start_s + 60, batch=8), telemetry_case(start_s))
    document = page_of(written(tmp_path, summary.model_copy(update={"cases": cases})))
    figures = document.json("figures")
    (trace,) = figures["telemetry-0"]["data"]
    assert trace["x"] == [0.0, 0.1, 0.2, None, 60.0, 60.1, 60.2, None]
    assert trace["y"] == [1980, None, 1900, None] * 2
    # What the driver does not give has no chart.
    assert [key for key in figures if key.startswith("telemetry")] == ["telemetry-0", "telemetry-1"]


# --- figures ---


@pytest.mark.parametrize(
    ("stages", "parts"),
    [
        (
            {"context": 600, "loaded": 640, "first_call": 900, "steady": 880},
            {"weights": 40, "workspace": 260, "steady rest": -20},
        ),
        ({"context": 600, "steady": 880}, {"steady, not split": 280}),
        ({"context": 600, "loaded": 640}, {}),
        ({}, {}),
    ],
)
def test_memory_is_split_as_far_as_it_was_read(stages: dict[str, float], parts: dict[str, float]) -> None:
    assert split_of(Memory(source="fresh_process", gpu_used_mb=stages)).parts == parts


def test_on_a_cpu_memory_is_the_hosts() -> None:
    read = split_of(
        Memory(source="fresh_process", rss_mb={"before": 100, "loaded": 130, "first_call": 150, "steady": 150})
    )
    assert (read.on_host, read.parts) == (True, {"weights": 30, "workspace": 20, "steady rest": 0})


@pytest.mark.parametrize(("server_ms", "prepare_ms"), [(400.0, 100.0), (None, 500.0), (501.0, 500.0)])
def test_the_start_of_a_server_is_counted_once(server_ms: float | None, prepare_ms: float) -> None:
    served = Served(server="emulated", protocol="http", load_ms=server_ms, steps=())
    cold = ColdStart(load_ms=1, prepare_ms=500, first_call_ms=2, warmup_calls=3)
    parts = cold_parts(summarize_case(case(served=served, cold_start=cold)))
    assert (parts["prepare"], sum(parts.values())) == (prepare_ms, 503)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (0, "0"),
        (2.0835, "2.08"),
        (9.999, "10.0"),
        (0.0123456, "0.0123"),
        (27115.4, "27,115"),
        (-3.53, "-3.53"),
        (6.1e-5, "6.10e-05"),
        (1e12, "1.00e+12"),
    ],
)
def test_numbers_have_as_many_digits_as_they_need(value: float, says: str) -> None:
    assert figure(value) == says


def test_a_duration_has_the_unit_that_suits_it() -> None:
    assert (duration(2.0835), duration(17400)) == ("2.08 ms", "17.4 s")


def test_a_runtime_looks_the_same_in_every_report() -> None:
    def styles(*runtimes: str) -> dict[str, Style]:
        series = Series([summarize_case(case(runtime=runtime, id=runtime)) for runtime in runtimes])
        return {runtime: series.style(runtime) for runtime in runtimes}

    many, few = styles("triton", "onnxruntime", "torch", "new"), styles("onnxruntime")
    assert many["onnxruntime"] == few["onnxruntime"]
    assert len({style.colour for style in many.values()}) == len({style.symbol for style in many.values()}) == 4
    assert len({Style.numbered(index) for index in range(24)}) == 24


def test_a_runtime_with_two_precisions_is_two_series() -> None:
    cases = [summarize_case(case(dtype_used=dtype, id=dtype)) for dtype in ("fp16", "fp32")]
    series = Series(cases)
    assert [series.label(one) for one in cases] == ["torch fp16", "torch fp32"]
    assert series.style("torch fp16") != series.style("torch fp32")


# --- damaged runs ---


def document() -> dict[str, Any]:
    summary = summarize([], run_id="run", complete=True, environment={"gpu": "X", "gpu_memory_mb": 80000})
    cases = (telemetry_case(1.7e9), telemetry_case(1.8e9, batch=8, runtime="onnxruntime"))
    read: dict[str, Any] = json.loads(summary.model_copy(update={"cases": cases}).model_dump_json())
    return read


numbers = st.sampled_from([0, -1, 1e-300, 1e300, -1e300, 10**9, 10**40, 1e308])


def choice() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(choose(Summary.model_validate(document(), strict=False), {}).model_dump_json())
    return read


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.sampled_from(places(document())), value=values | numbers | st.just(HOSTILE))
def test_any_value_in_any_place_of_a_summary_is_rendered_or_refused(
    tmp_path: Path, place: tuple[str | int, ...], value: object
) -> None:
    rendered_or_refused(tmp_path, {"summary": changed(document(), place, value)})


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.sampled_from(places(choice())), value=values | numbers | st.just(HOSTILE))
def test_any_value_in_any_place_of_a_choice_is_rendered_or_refused(
    tmp_path: Path, place: tuple[str | int, ...], value: object
) -> None:
    rendered_or_refused(tmp_path, {"summary": document(), "choice": changed(choice(), place, value)})


def changed(content: Any, place: tuple[str | int, ...], value: object) -> Any:
    parent = content
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = value
    return content


def rendered_or_refused(folder: Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content, default=str))
    try:
        html = render(read_material(folder, None, None, None))
    except InputError:
        return
    assert html.startswith("<!doctype html>")
    assert html.count("<script") == 6
