"""The report in Chromium: it draws, sorts, prints and stays readable on every screen, without a network."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from fixtures.report import read_material, render
from meta_tests.conftest import wait_until
from meta_tests.report_pages import HOSTILE, STORED, another_run, hostile_run, made_run, stored_run

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
DESKTOP, PHONE = (1400, 900), (375, 812)
A4_WIDTH_PX = 703  # upright, between margins of 12 mm

pytestmark = pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="needs chromium and chromedriver")

# Marks of each plot that have a size, and how many of them lie inside its frame.
MARKS = """
  return [...document.querySelectorAll('.plot')].map((plot) => {
    const svg = plot.querySelector('svg.main-svg');
    const area = svg && svg.getBoundingClientRect();
    const marks = [...plot.querySelectorAll('.point path, .points path, path.point, .lines path, .bars path')];
    const drawn = marks.map((mark) => mark.getBoundingClientRect()).filter((box) => box.width > 0 || box.height > 0);
    const inside = drawn.filter((box) => area && box.left >= area.left - 1 && box.right <= area.right + 1
      && box.top >= area.top - 1 && box.bottom <= area.bottom + 1);
    return {key: plot.dataset.chart || '', width: area ? area.width : 0, height: area ? area.height : 0,
      room: plot.clientWidth, drawn: drawn.length, inside: inside.length};
  });
"""

# Clicks every heading twice; returns what is not in order afterwards, judged by the visible text.
SORTING = r"""
  const problems = [];
  const collator = new Intl.Collator('en', {numeric: true});
  const read = (text) => Number(text.replace(/[(),]/g, ''));
  let headings = 0;
  for (const table of document.querySelectorAll('table')) {
    if (!table.tBodies[0].rows.length) continue;
    const before = [...table.tBodies[0].rows].map((row) => row.textContent).sort().join('|');
    for (const heading of table.querySelectorAll('thead th')) {
      const name = `${table.caption.textContent}: ${heading.textContent}`;
      const numeric = heading.dataset.kind === 'number';
      for (const [direction, sign] of [['ascending', 1], ['descending', -1]]) {
        heading.querySelector('button').click();
        headings += 1;
        if (heading.getAttribute('aria-sort') !== direction) problems.push(`${name} is not ${direction}`);
        if (table.querySelectorAll('[aria-sort]').length !== 1) problems.push(`${name} is not alone`);
        const texts = [...table.tBodies[0].rows].map((row) => row.cells[heading.cellIndex].textContent);
        const known = texts.filter((text) => text !== '–');
        if (texts.slice(0, known.length).includes('–')) problems.push(`${name}: what is missing is not last`);
        if (numeric && known.some((text) => Number.isNaN(read(text)))) problems.push(`${name} is no number`);
        const compare = numeric ? (one, other) => read(one) - read(other) : collator.compare;
        for (let at = 1; at < known.length; at += 1) {
          if (sign * compare(known[at - 1], known[at]) > 0) {
            problems.push(`${name}: ${known[at - 1]} before ${known[at]}`);
          }
        }
      }
    }
    const after = [...table.tBodies[0].rows].map((row) => row.textContent).sort().join('|');
    if (before !== after) problems.push(`${table.caption.textContent} has other rows`);
  }
  return [headings, problems];
"""

COLOURS = """
  const plots = [...document.querySelectorAll('.plot')];
  return {
    surface: getComputedStyle(document.body).backgroundColor,
    texts: [...new Set([
      ...plots.flatMap((plot) => [...plot.querySelectorAll('text')].map((text) => getComputedStyle(text).fill)),
      ...[...document.querySelectorAll('p, th, td, a, dt, summary, button')].map((one) => getComputedStyle(one).color),
    ])],
    swatches: [...new Set([...document.querySelectorAll('svg.swatch')].map((one) => getComputedStyle(one).color))],
    lines: [...new Set(plots.flatMap((plot) => [...plot.querySelectorAll('.js-line')].map((line) =>
      getComputedStyle(line).stroke)))],
  };
"""


class Browser:
    """A headless Chromium with its console messages and network requests."""

    def __init__(self, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM or ""
        for argument in ("no-sandbox", "headless=new", "disable-dev-shm-usage", f"user-data-dir={profile}"):
            options.add_argument(f"--{argument}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
        self.messages: list[str] = []
        self.requests: list[str] = []
        # A browser starts with a page of its own, whose requests are not those of the report.
        self.driver.get("about:blank")
        self.read_logs()

    def open(self, page: Path) -> None:
        """Open a page and wait until all its charts are drawn."""
        self.screen(DESKTOP)
        self.media()
        self.driver.get(page.as_uri())
        self.wait("return 'drawn' in document.documentElement.dataset")

    def screen(self, size: tuple[int, int], *, mobile: bool = False) -> None:
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.command("Emulation.setDeviceMetricsOverride", **metrics)

    def media(self, **features: str) -> None:
        listed = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.command("Emulation.setEmulatedMedia", features=listed)

    def command(self, name: str, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.driver.execute_cdp_cmd(name, arguments)
        return answer

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str, seconds: float = 120) -> None:
        wait_until(lambda: bool(self.run(script)), seconds)

    def settle(self) -> None:
        """Wait until every chart has the width of its frame."""
        self.wait(
            "return [...document.querySelectorAll('.plot')].every((plot) => !plot.clientWidth || "
            "Math.abs(plot.querySelector('svg.main-svg').getBoundingClientRect().width - plot.clientWidth) < 1)"
        )

    def _log(self, name: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.driver.get_log(name)  # type: ignore[no-untyped-call]
        return entries

    def read_logs(self) -> None:
        self.messages += [f"{entry['level']}: {entry['message']}" for entry in self._log("browser")]
        for entry in self._log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A stored run of 60 cases, a small made run with every kind of chart, and one whose names are markup."""
    folder = tmp_path_factory.mktemp("pages")
    stored, made, hostile = stored_run(folder, "h200"), made_run(folder / "made"), hostile_run(folder / "hostile")
    manifest = STORED / "h100_served"
    materials = {
        "stored": read_material(stored, another_run(stored, 1.2), None, STORED / "h200"),
        "made": read_material(made, another_run(made, 1.2), None, manifest),
        "hostile": read_material(hostile, hostile, None, None),
    }
    for name, material in materials.items():
        (folder / f"{name}.html").write_text(render(material))
    return {name: folder / f"{name}.html" for name in materials}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.driver.quit()


@pytest.fixture(scope="module", params=["stored", "made", "hostile"])
def shown(request: pytest.FixtureRequest, browser: Browser, pages: dict[str, Path]) -> Browser:
    """The browser with one of the pages; its tests share the page and restore it."""
    browser.messages.clear()
    browser.requests.clear()
    browser.open(pages[request.param])
    return browser


stored_alone = pytest.mark.parametrize("shown", ["stored"], indirect=True)
stored_and_made = pytest.mark.parametrize("shown", ["stored", "made"], indirect=True)
made_alone = pytest.mark.parametrize("shown", ["made"], indirect=True)
made_and_hostile = pytest.mark.parametrize("shown", ["made", "hostile"], indirect=True)
hostile_alone = pytest.mark.parametrize("shown", ["hostile"], indirect=True)


@pytest.fixture(autouse=True)
def _no_message(shown: Browser, pages: dict[str, Path]) -> Iterator[None]:
    """Every test: no message on the console, no request except for the page itself."""
    yield
    shown.read_logs()
    assert shown.messages == []
    requests = {url for url in shown.requests if not url.startswith("data:")}
    assert requests <= {page.as_uri() for page in pages.values()}


def test_every_chart_draws_marks_inside_its_frame(shown: Browser) -> None:
    plots = shown.run(MARKS)
    assert len(plots) == shown.run("return document.querySelectorAll('figure').length") >= 5
    for plot in plots:
        assert plot["drawn"] > 0, plot
        assert plot["inside"] == plot["drawn"], plot
        assert plot["height"] > 50, plot
        assert abs(plot["width"] - plot["room"]) < 1, plot


@hostile_alone
def test_markup_in_names_is_shown_as_text(shown: Browser) -> None:
    assert shown.run("return document.querySelectorAll('img, script[src], svg a').length") == 0
    texts = shown.run("return [...document.querySelectorAll('.plot text')].map((text) => text.textContent)")
    assert any(HOSTILE in text for text in texts)
    assert shown.run("return document.getElementById('rounds-case').value") == f"{HOSTILE}-b1"
    assert HOSTILE in shown.run("return document.getElementById('rounds-finding').textContent")


@stored_and_made
def test_every_heading_sorts_its_table(shown: Browser) -> None:
    shown.run("document.getElementById('rounds-data')?.setAttribute('open', '')")
    headings, problems = shown.run(SORTING)
    assert problems == []
    assert headings > 100


@stored_alone
def test_chosen_case_is_drawn(shown: Browser) -> None:
    chosen = "raft_small_512-b8-fp16-torch"
    shown.run("document.querySelector(`#all-cases a[data-case='${arguments[0]}']`).click()", chosen)
    state = shown.run("""
      const label = (id) => document.getElementById(id).closest('figure').getAttribute('aria-label');
      return {value: document.getElementById('rounds-case').value, hash: location.hash,
        finding: document.getElementById('rounds-finding').textContent,
        labels: [label('rounds-histogram'), label('rounds-over-time')],
        bars: document.querySelectorAll('#rounds-histogram .point path').length,
        points: document.querySelectorAll('#rounds-over-time path.point').length};
    """)
    said = f"{chosen}: 115 rounds, p50 18.1 ms, p95 18.2 ms, from"
    assert (state["value"], state["hash"], state["points"]) == (chosen, "#rounds", 115)
    assert state["finding"].startswith(said)
    assert all(said in label for label in state["labels"])
    assert state["bars"] > 3
    shown.run("document.getElementById('rounds-data').open = true")
    shown.wait("return document.querySelectorAll('#rounds-data tbody tr').length === 115")
    other = "midas_small_256-b1-fp16-torch"
    shown.run(
        "const list = document.getElementById('rounds-case'); list.value = arguments[0];"
        "list.dispatchEvent(new Event('change'))",
        other,
    )
    assert shown.run("return document.querySelectorAll('#rounds-over-time path.point').length") == 545
    assert shown.run("return document.querySelectorAll('#rounds-data tbody tr').length") == 545


@made_and_hostile
def test_page_on_a_phone_never_scrolls_sideways(shown: Browser) -> None:
    shown.screen(PHONE, mobile=True)
    shown.run("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    shown.settle()
    assert shown.run("return [innerWidth, document.documentElement.scrollWidth]") == [PHONE[0], PHONE[0]]
    wide = shown.run("""
      return [...document.querySelectorAll('body *')].filter((one) => !one.closest('.scroll') && !one.closest('svg')
        && one.className !== 'skip' && one.getBoundingClientRect().right > innerWidth + 0.5).map((one) => one.outerHTML)
    """)
    assert wide == []
    assert all(plot["inside"] == plot["drawn"] > 0 for plot in shown.run(MARKS))
    shown.run("document.querySelectorAll('details').forEach((one) => (one.open = false))")
    shown.screen(DESKTOP)
    shown.settle()


@made_alone
def test_dark_scheme_keeps_contrast_of_texts_and_lines(shown: Browser) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        shown.media(prefers_color_scheme=scheme)
        shown.wait(f"return getComputedStyle(document.querySelector('.plot text')).fill === '{INK[scheme]}'")
        seen[scheme] = shown.run(COLOURS)
        surface = luminance(seen[scheme]["surface"])
        for text in seen[scheme]["texts"]:
            assert contrast(luminance(text), surface) >= 4.5, (scheme, text)
        for mark in [*seen[scheme]["lines"], *seen[scheme]["swatches"]]:
            assert contrast(luminance(mark), surface) >= 3, (scheme, mark)
    assert luminance(seen["light"]["surface"]) > 0.9
    assert luminance(seen["dark"]["surface"]) < 0.05
    assert not set(seen["light"]["lines"]) & set(seen["dark"]["lines"])
    shown.media()


INK = {"light": "rgb(27, 31, 36)", "dark": "rgb(228, 232, 236)"}


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.1."""
    channels = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


@made_alone
def test_print_from_dark_scheme_is_white_and_fits_the_paper(shown: Browser) -> None:
    shown.media(prefers_color_scheme="dark")
    shown.run("""
      window.printed = null;
      addEventListener('beforeprint', () => {
        const plots = [...document.querySelectorAll('.plot')];
        window.printed = {
          ink: [...new Set(plots.flatMap((plot) => [...plot.querySelectorAll('text')].map((one) =>
            getComputedStyle(one).fill)))],
          widest: Math.max(...plots.map((plot) => plot.querySelector('svg.main-svg').getBoundingClientRect().width)),
          closed: document.querySelectorAll('details:not(.data):not([open])').length,
        };
      }, {once: true});
    """)
    options = {"printBackground": True, "preferCSSPageSize": True}
    document = base64.b64decode(shown.command("Page.printToPDF", **options)["data"])
    assert document.startswith(b"%PDF-")
    assert len(document) > 100_000
    printed = shown.run("return window.printed")
    assert printed["ink"] == [INK["light"]]
    assert printed["widest"] < A4_WIDTH_PX
    assert printed["closed"] == 0
    shown.wait("return !('print' in document.documentElement.dataset)")
    assert shown.run("return document.querySelectorAll('details[open]:not(.data)').length") == 0
    assert shown.run("return getComputedStyle(document.querySelector('.plot text')).fill") == INK["dark"]
    shown.media()


@made_alone
def test_screen_reader_finds_a_name_for_every_element(shown: Browser) -> None:
    shown.command("Accessibility.enable")
    nodes = [node for node in shown.command("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
    shown.command("Accessibility.disable")
    named: dict[str, list[str]] = {}
    for node in nodes:
        named.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    for role in ("image", "button", "link", "table", "region", "columnheader", "rowheader", "navigation"):
        assert named[role], role
        assert all(name.strip() for name in named[role]), role
    assert len(named["main"]) == len(named["navigation"]) == 1
    # A figure has one name; its marks are not read aloud.
    assert len(named["image"]) == len(shown.run(MARKS))
    assert any("SM clock, MHz: from 1,900 (" in name for name in named["image"])


@hostile_alone
def test_first_tab_key_reaches_the_skip_link(shown: Browser) -> None:
    shown.run("document.activeElement.blur(); scrollTo(0, 0)")
    shown.command("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert shown.run("return document.activeElement.className") == "skip"
    assert shown.run("return document.activeElement.getBoundingClientRect().left >= 0")
