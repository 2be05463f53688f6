"""Rendered pages as the tests of the report read them, and runs to render."""

from __future__ import annotations

import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from fixtures.records import (
    CaseSummary,
    ColdStart,
    LatencyHop,
    LatencyWaterfall,
    Memory,
    Summary,
    Telemetry,
    TelemetrySeries,
)
from fixtures.report import read_material, render
from fixtures.results.summary import summarize, summarize_case
from meta_tests.conftest import ROOT
from meta_tests.result_rows import case, lines

STORED = ROOT / "meta_tests" / "data"
HOSTILE = """</script><script>alert(1)</script><img src=x onerror="alert(2)">'"&amp;`%{x}"""
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
    """A parsed document; an element that is not closed fails."""

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
        """Rows of the table whose caption begins with this text, by heading."""
        (found,) = [one for one in self.all("table") if one.all("caption")[0].text.startswith(caption)]
        headings = [one.text for one in found.all("thead")[0].all("th")]
        rows = found.all("tbody")[0].all("tr")
        return [dict(zip(headings, [cell.text for cell in row.children], strict=True)) for row in rows]


def stored_run(folder: Path, name: str) -> Path:
    """A stored run as a folder."""
    run = folder / name
    run.mkdir()
    (run / "summary.json").write_bytes((STORED / name / "summary.json").read_bytes())
    (run / "results.jsonl").write_bytes(gzip.decompress((STORED / name / "results.jsonl.gz").read_bytes()))
    return run


def another_run(run: Path, factor: float) -> Path:
    """A run again beside it, slower by this factor and with a case that failed."""
    document = json.loads((run / "summary.json").read_text())
    document["run_id"] = "before"
    for one in document["cases"]:
        one["latency_ms"] = {key: value and value * factor for key, value in (one["latency_ms"] or {}).items()} or None
    document["cases"][3] |= {"status": "error", "error": "boom", "latency_ms": None, "throughput_items_per_s": None}
    other = run.with_name(f"before_{run.name}")
    other.mkdir()
    (other / "summary.json").write_text(json.dumps(document))
    return other


def written(folder: Path, summary: Summary) -> Path:
    """The folder of a run that has only a summary."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(summary.model_dump_json())
    return folder


def page_of(run: Path, **named: Path) -> Page:
    files = {"baseline": None, "choice": None, "manifest": None, **named}
    return Page(render(read_material(run, **files)))


def hostile_summary() -> Summary:
    """A summary whose names, notes and errors are markup."""
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
    """A run whose names, notes and errors are markup, with rounds."""
    rows = "\n".join(lines(case(HOSTILE, id=f"{HOSTILE}-b1")))
    written(folder, hostile_summary())
    (folder / "results.jsonl").write_text(rows.replace('"run_id":"run"', f'"run_id":{json.dumps(HOSTILE)}'))
    return folder


def telemetry_of(start_s: float) -> Telemetry:
    """Three samples from a time on; the driver does not give the power."""
    times = tuple(start_s + index / 10 for index in range(3))
    series = TelemetrySeries(
        at_s=times, sm_clock_mhz=(1980, None, 1900), temperature_c=(40, 41, 42), power_w=(None, None, None)
    )
    return Telemetry(samples=3, sm_clock_mhz=(1900, 1940, 1980), temperature_c=(40, 41, 42), series=series)


def telemetry_case(start_s: float, **facts: Any) -> CaseSummary:
    return summarize_case(case(telemetry=telemetry_of(start_s), **facts))


def made_run(folder: Path) -> Path:
    """A small run with every kind of chart: sizes, batches, runtimes, memory in parts, telemetry, a waterfall."""
    stages = {"context": 600.0, "loaded": 640.0, "first_call": 900.0, "steady": 880.0}
    kinds = [(size, runtime, batch) for size in (256, 512) for runtime in ("torch", "onnxruntime") for batch in (1, 8)]
    results = [
        case(
            f"midas_small_{size}",
            batch=batch,
            runtime=runtime,
            id=f"midas_small_{size}-b{batch}-fp16-{runtime}",
            input_bucket={"height": size, "width": size},
            memory=Memory(source="fresh_process", gpu_used_mb=stages),
            cold_start=ColdStart(load_ms=300, prepare_ms=20, first_call_ms=4000, warmup_calls=9),
            telemetry=telemetry_of(1.7e9 + 60 * index),
        )
        for index, (size, runtime, batch) in enumerate(kinds)
    ]
    results.append(case(rounds=0, batch=16, status="oom", error="out of memory"))
    hops = (("torch", 7.2, 0.0), ("ONNX Runtime", 3.6, -3.6), ("client, http", 9.5, 5.9))
    waterfall = LatencyWaterfall(
        case_id="served",
        server="emulated",
        hops=tuple(LatencyHop(hop=hop, ms=ms, added_ms=added_ms) for hop, ms, added_ms in hops),
        serving_tax_percent=164.0,
    )
    variants = {f"midas_small_{size}": {"model": "MiDaS_small"} for size in (256, 512)}
    environment = {"device": "cuda", "gpu": "X"}
    summary = summarize(results, run_id="run", complete=True, environment=environment, run={"variants": variants})
    written(folder, summary.model_copy(update={"waterfalls": (waterfall,)}))
    (folder / "results.jsonl").write_text("\n".join(lines(*results)))
    return folder


def everything(element: Element) -> list[Element]:
    return [element, *(one for child in element.children for one in everything(child))]


def headings(element: Element) -> list[Element]:
    return [one for one in everything(element) if re.fullmatch("h[1-6]", one.tag)]
