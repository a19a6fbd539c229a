"""The pages of reports and comparisons in a headless browser: drawn, without messages or network, light and dark."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from loadtests.comparison.model import Comparison
from loadtests.recording.recording import Recording
from loadtests.report.comparison_page import render_comparison_html, render_overview_html
from loadtests.report.html_page import render_runs_html
from loadtests.report.run_data import evidence_of
from loadtests.results.metrics import Figure
from loadtests.results.store import Run
from loadtests.results.validity import Verdict
from tests.helpers.loadtests_reports import PHASES, make_comparison, make_evidence, make_recording
from tests.helpers.loadtests_runs import make_run
from tests.helpers.processes import wait_for

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
BROWSER_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MOST_BYTES = 2_000_000
SIZES = {"desktop": (1400, "light"), "dark phone": (400, "dark")}
WIDTHS = (400, 1400)
AWAY = "It was away for 5 of 16 s."
HEBREW = "\u05e9\u05dc\u05d5\u05dd 12"
LONG = "a-long-label-without-a-blank-" * 8

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not BROWSER or not DRIVER, reason="chromium and chromedriver are not installed"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in [*BROWSER_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, browser: webdriver.Chrome) -> dict[str, Path]:
    """Pages of every kind: with everything, with nothing, several runs, comparisons, and some that are hostile."""
    folder = tmp_path_factory.mktemp("pages")
    hostile = '</script><script>alert("x")</script>|`${1}`\\'
    doubtful = make_run(label=hostile, phases={}, verdict=Verdict("noisy-host", [hostile]), errors={hostile: 3})
    labels = ["one", LONG, '<b>&"it\'s"', "\N{PARTY POPPER}", HEBREW, *"fghij"]
    comparison = make_comparison(folder / "runs")
    texts = {
        "run": render_runs_html([make_evidence()]),
        "nothing": render_runs_html([evidence_of(make_run(figures=[], phases={}), Recording(), [])]),
        "several": render_runs_html([make_evidence(make_run(label=label, phases=PHASES)) for label in "ab"]),
        "ten": render_runs_html([make_evidence(make_run(label=label, phases=PHASES)) for label in labels]),
        "doubtful": render_runs_html([evidence_of(doubtful, make_recording(response=False), [])]),
        "failed": render_runs_html([make_evidence(failed_run())]),
        "comparison": render_comparison_html(comparison),
        "far": render_comparison_html(far_comparison()),
        "overview": render_overview_html([comparison, far_comparison()]),
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text)
    return {name: folder / f"{name}.html" for name in texts}


def failed_run() -> Run:
    """A run of a server that was away: twenty types, many classes of failure with long texts, figures withheld."""
    types = [f"A_TYPE_WITH_A_NAME_{number}" for number in range(19)] + ["<b>&\"'"]
    withheld = ("server_rss_per_socket", "response_p99.9")
    figures = [figure for figure in make_run().figures if figure.name not in withheld]
    for name in types:
        figures += [Figure(f"answered_{name}", 1_234_567, "exchanges"), Figure(f"failed_{name}", 1, "exchanges")]
        figures += [Figure(f"response_{name}_{each}", 1234.5, "us") for each in ("mean", "p50", "p95", "p99", "max")]
    errors = {f"A_TYPE_WITH_A_NAME_{number}: wrong <reply>": 100 - number for number in range(30)}
    return make_run(
        label=LONG,
        phases=PHASES,
        figures=figures,
        server={"address": "tls://[2001:db8::1]:3001", "command": "gserver json " + "--option value " * 90},
        environment={"gserver": "1.2.3", "source": "fedcba987654"},
        errors=errors,
        examples=dict.fromkeys(errors, "expected (32, b'" + "x" * 400 + "') <b>"),
        withheld=dict.fromkeys(withheld, "only 200 sockets were open"),
        verdict=Verdict("valid", [AWAY, "The host was busy."], [AWAY]),
    )


def far_comparison() -> Comparison:
    """One change 240 times as large, an interval that reaches beyond both edges, and a long and a Hebrew title."""
    comparison = make_comparison()
    changes: dict[str, dict[str, Any]] = {
        "server_rss_per_socket": {"change": 239.0, "low": 213.0, "high": 276.0},
        "response_p99": {"change": 0.1, "low": -0.99, "high": 9.0},
    }
    return dataclasses.replace(
        comparison,
        a=dataclasses.replace(comparison.a, title=HEBREW),
        b=dataclasses.replace(comparison.b, title=LONG),
        figures=tuple(dataclasses.replace(each, **changes.get(each.name, {})) for each in comparison.figures),
    )


def opened(browser: webdriver.Chrome, page: Path, width: int = 1280, light: str = "light") -> None:
    """Open a page in a window of this width and colour scheme, and wait until it is drawn."""
    for name in ("browser", "performance"):
        browser.get_log(name)
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"features": [{"name": "prefers-color-scheme", "value": light}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
    browser.get(page.as_uri())
    wait_for(lambda: script(browser, "document.documentElement.dataset.drawn") is not None, "all charts drawn")


def script(browser: webdriver.Chrome, expression: str) -> Any:
    return browser.execute_script(f"return {expression}")


def requests_of(browser: webdriver.Chrome) -> list[str]:
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith("data:")]


def drawn_charts(browser: webdriver.Chrome) -> list[dict[str, int]]:
    """Of each chart: how wide it is, and how much of it is drawn."""
    look = """[...document.querySelectorAll('.chart')].map(chart => {
        const svg = chart.querySelector('svg');
        const marks = svg ? svg.querySelectorAll('.mark-line path, .mark-area path, .mark-rect path, .mark-symbol path,'
            + ' .mark-rule line') : [];
        const size = mark => mark.getBoundingClientRect().width + mark.getBoundingClientRect().height;
        const seen = [...marks].filter(mark => size(mark) > 0);
        return {width: svg ? svg.getBoundingClientRect().width : 0, marks: seen.length};
    })"""
    charts: list[dict[str, int]] = script(browser, look)
    return charts


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("name", "charts"),
    [
        ("run", 13),
        ("nothing", 0),
        ("several", 27),
        ("doubtful", 9),
        ("failed", 13),
        ("comparison", 15),
        ("far", 11),
        ("overview", 6),
    ],
)
def test_a_page_is_drawn_without_console_messages_or_network(
    browser: webdriver.Chrome, pages: dict[str, Path], name: str, charts: int, size: str
) -> None:
    width, light = SIZES[size]
    opened(browser, pages[name], width, light)

    assert browser.get_log("browser") == []
    assert requests_of(browser) == [pages[name].as_uri()]
    found = drawn_charts(browser)
    assert len(found) == charts
    assert all(chart["marks"] > 0 and 0.6 * (width - 420) < chart["width"] <= width for chart in found), found
    assert script(browser, "document.documentElement.scrollWidth") <= width


def test_light_and_dark_are_different_colours_for_page_and_charts(
    browser: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    colours = []
    for light in ("light", "dark"):
        opened(browser, pages["run"], light=light)
        label = "getComputedStyle(document.querySelector('.chart svg text')).fill"
        colours.append((script(browser, "getComputedStyle(document.body).backgroundColor"), script(browser, label)))

    assert colours[0] == ("rgb(255, 255, 255)", "rgb(89, 99, 110)")
    assert colours[1] == ("rgb(20, 23, 27)", "rgb(160, 169, 180)")


def test_on_paper_it_is_light_and_the_tables_stay_away(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    opened(browser, pages["run"], light="dark")
    paper = {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", paper)

    assert script(browser, "getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not any(each.is_displayed() for each in browser.find_elements(By.CSS_SELECTOR, "details:not(.print)"))
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_a_tooltip_shows_the_values_at_the_pointer(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    opened(browser, pages["run"])
    chart = browser.find_elements(By.CSS_SELECTOR, ".chart svg")[2]
    ActionChains(browser).move_to_element(chart).perform()
    tip = browser.find_element(By.CLASS_NAME, "tip")
    wait_for(tip.is_displayed, "the tip")

    assert "throughput: 300 /s" in tip.text


def test_a_keyboard_reaches_tables_and_charts_and_sees_where_it_is(
    browser: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    opened(browser, pages["run"])
    focus = browser.switch_to
    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert focus.active_element.text == "To the report"
    reached = []
    while focus.active_element.tag_name != "summary":
        ActionChains(browser).send_keys(Keys.TAB).perform()
        reached.append(focus.active_element.get_attribute("class"))
        assert script(browser, "getComputedStyle(document.activeElement).outlineStyle") == "solid"
        assert len(reached) < 10
    assert reached[0] == "wide"
    assert reached[1].startswith("chart")
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    assert browser.find_element(By.CSS_SELECTOR, "details[open] table").is_displayed()


@pytest.mark.parametrize(
    ("name", "chart", "first", "last"),
    [
        ("run", 2, "second 0.5\nthroughput: 300 /s", "second 19.5\nthroughput: 300 /s"),
        ("run", 7, "second -2\nconnections: 0", "second 19\nconnections: 200"),
        ("far", 0, "throughput: +0.10%, equivalent", "memory per connection: 240x, worse"),
        ("far", 6, "run 1, ", "run 16, "),
    ],
)
def test_the_arrow_keys_show_the_tooltips_too(
    browser: webdriver.Chrome, pages: dict[str, Path], name: str, chart: int, first: str, last: str
) -> None:
    opened(browser, pages[name])
    place = browser.find_elements(By.CLASS_NAME, "chart")[chart]
    browser.execute_script("arguments[0].focus()", place)
    tip, read = browser.find_element(By.CLASS_NAME, "tip"), browser.find_element(By.ID, "read")
    for key, said in ((Keys.ARROW_RIGHT, first), (Keys.END, last), (Keys.HOME, first)):
        ActionChains(browser).send_keys(key).perform()
        assert tip.text.startswith(said)
        assert read.get_property("textContent") == tip.text
        assert script(browser, "document.querySelectorAll('.chosen').length") == 1
        assert float(script(browser, "getComputedStyle(document.querySelector('.chosen')).opacity")) == 1
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT).perform()
    assert not tip.text.startswith(first)
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert not tip.is_displayed()


def test_a_tooltip_stays_after_a_tap(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    opened(browser, pages["run"], 400)
    chart = browser.find_elements(By.CSS_SELECTOR, ".chart svg")[2]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", chart)
    box = browser.execute_script("return arguments[0].getBoundingClientRect()", chart)
    at = {"x": box["x"] + 0.7 * box["width"], "y": box["y"] + box["height"] / 2}
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [at]})
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        wait_for(lambda: script(browser, "document.querySelector('#read').textContent") != "", "the tap is answered")
        tip = browser.find_element(By.CLASS_NAME, "tip")

        assert re.match(r"second 1[2-4]\.5\nthroughput: 300 /s", tip.text)
        assert tip.rect["x"] + tip.rect["width"] <= 400
    finally:
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


# Nothing lies beyond an edge


NAMES = ["run", "several", "ten", "failed", "comparison", "far", "overview"]
# Of the elements that match: those that cross an edge of the window, or of what they scroll in, with their words.
BEYOND = """
    const wide = document.documentElement.clientWidth, found = [];
    for (const each of document.querySelectorAll(arguments[0])) {
        const box = each.getBoundingClientRect();
        const inside = each.closest('.wide')?.getBoundingClientRect() ?? {left: 0, right: wide};
        if (box.width && (box.left < inside.left - 1 || box.right > Math.min(wide, inside.right) + 1))
            found.push([each.textContent.slice(0, 60), Math.round(box.left), Math.round(box.right)]);
    }
    return found;
"""
# Of each picture: where the plots of its charts begin and end.
PLOTS = """
    return [...document.querySelectorAll('.picture')].map((picture) =>
        [...picture.querySelectorAll('.chart svg .root > g > path.background')].map((plot) => {
            const box = plot.getBoundingClientRect();
            return [box.left, box.right];
        })
    ).filter((plots) => plots.length);
"""


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_every_legend_every_label_and_every_cell_in_sight_lies_inside_the_window(
    browser: webdriver.Chrome, pages: dict[str, Path], name: str, width: int
) -> None:
    opened(browser, pages[name], width)

    assert (name == "overview") or browser.find_elements(By.CSS_SELECTOR, ".legend li")
    for what in (
        ".legend li",
        ".chart svg text",
        ".stacked td",
        ".stacked tbody th",
        ".key-figures li",
        "h1, h2, h3, p",
    ):
        assert browser.execute_script(BEYOND, what) == [], what
    assert script(browser, "document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_the_plots_of_a_picture_stand_above_each_other(
    browser: webdriver.Chrome, pages: dict[str, Path], name: str, width: int
) -> None:
    opened(browser, pages[name], width)
    pictures = browser.execute_script(PLOTS)

    assert pictures
    assert name == "overview" or max(map(len, pictures)) > 1
    for plots in pictures:
        assert max(left for left, _ in plots) - min(left for left, _ in plots) < 0.5, plots
        assert max(right for _, right in plots) - min(right for _, right in plots) < 0.5, plots
        assert all(right - left > 0.35 * min(width, 900) for left, right in plots), plots


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.usefixtures("pages")  # which has opened what a renderer keeps open
def test_scales_of_any_size_leave_the_plots_where_they_are(
    browser: webdriver.Chrome, tmp_path: Path, width: int
) -> None:
    """Values from nothing to millions, and such as differ in the sixth digit only."""
    comparison = make_comparison()
    values = {
        "throughput": (1000.0, 1000.0002),
        "response_p50": (0.0001, 0.0002),
        "response_p99": (1_234_567_890.0, 1_234_567_899.0),
        "server_cpu_per_exchange": (1234.5, 1234.6),
        "server_rss_per_socket": (0.25, 123_456.75),
    }
    figures = tuple(
        dataclasses.replace(each, a=(a,) * 8, b=(b,) * 8, a_typical=a, b_typical=b)
        for each in comparison.figures
        for a, b in [values.get(each.name, (None, None))]
        if a is not None and b is not None
    )
    page = tmp_path / "page.html"
    page.write_text(render_comparison_html(dataclasses.replace(comparison, figures=figures)))
    opened(browser, page, width)
    (dots,) = [plots for plots in browser.execute_script(PLOTS) if len(plots) == len(values)]

    assert max(left for left, _ in dots) - min(left for left, _ in dots) < 0.5, dots
    assert browser.execute_script(BEYOND, ".chart svg text") == []


def test_both_sides_of_a_comparison_are_visible_on_a_phone(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    opened(browser, pages["comparison"], 400)
    rows = browser.find_elements(By.CSS_SELECTOR, ".judged tbody tr")

    assert len(rows) == len(make_comparison().headlines)
    for row in rows:
        shown = {cell.get_attribute("data-title"): cell for cell in row.find_elements(By.TAG_NAME, "td")}
        assert {"A", "B", "change", "interval"} < shown.keys()
        for cell in shown.values():
            assert cell.is_displayed()
            assert cell.text
            assert 0 <= cell.rect["x"] < cell.rect["x"] + cell.rect["width"] <= 400


def test_values_off_the_scale_are_marked_with_their_value(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    opened(browser, pages["far"], 400)
    texts = script(browser, "[...document.querySelectorAll('#verdicts svg text')].map(each => each.textContent)")

    assert "off the scale: 240x" in texts
    assert len([text for text in texts if text.startswith("off the scale")]) == 1


# What it says


def test_the_head_of_a_page_names_the_server(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    opened(browser, pages["failed"])
    head = browser.find_element(By.TAG_NAME, "header").text

    assert "Server: tls://[2001:db8::1]:3001, gserver json --option value" in head
    assert "Version: gserver 1.2.3 (source fedcba987654)" in head
    opened(browser, pages["comparison"])
    head = browser.find_element(By.TAG_NAME, "header").text
    assert head.count("tcp://127.0.0.1:3001, gserver json -w 1") == 2


def test_the_halves_of_a_verdict_failures_and_reasons_are_in_sight(
    browser: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    opened(browser, pages["failed"], 400)
    verdict = browser.find_element(By.CLASS_NAME, "verdict").text
    order = ["Valid.", "What the server did not do", AWAY, "Why the figures are doubtful", "The host was busy."]
    failures = browser.find_element(By.CSS_SELECTOR, ".failures").text

    assert [verdict.index(part) for part in order] == sorted(verdict.index(part) for part in order)
    assert "A_TYPE_WITH_A_NAME_0: wrong <reply>" in failures
    assert "expected (32, b'xxx" in failures
    assert "20 more classes of failure" in browser.find_element(By.TAG_NAME, "main").text
    reasons = [each.text for each in browser.find_elements(By.CLASS_NAME, "why")]
    assert reasons == ["Only 200 sockets were open."] * 2


def test_every_type_of_message_is_a_row_in_sight(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    opened(browser, pages["failed"], 1400)
    table = browser.find_element(By.CSS_SELECTOR, "[aria-label='Table: In the measured phase']")
    header = [each.text for each in table.find_elements(By.CSS_SELECTOR, "thead th")]
    rows = [each.text for each in table.find_elements(By.CSS_SELECTOR, "tbody th")]

    assert header[:4] == ["latency", "answered", "failed", "mean"]
    assert {"min", "p50", "p90", "p95", "p99", "p99.9", "max"} < set(header)
    assert rows[0] == "all types"
    assert len(rows) == 22
    assert rows[-1] == "<b>&\"'"


@pytest.mark.usefixtures("pages")  # which has opened what a renderer keeps open
def test_a_headline_figure_that_a_side_withholds_keeps_its_row_with_the_reason(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    comparison, name = make_comparison(), "server_rss_per_socket"
    poor = make_run(
        figures=[figure for figure in make_run().figures if figure.name != name], withheld={name: "too few sockets"}
    )
    figures = tuple(each for each in comparison.figures if each.name != name)
    page = tmp_path / "page.html"
    page.write_text(
        render_comparison_html(
            dataclasses.replace(comparison, b=dataclasses.replace(comparison.b, runs=(poor,) * 8), figures=figures)
        )
    )
    opened(browser, page)
    row = browser.find_elements(By.CSS_SELECTOR, ".judged tbody tr")[-1]

    assert [cell.text for cell in row.find_elements(By.CSS_SELECTOR, "th, td")] == [
        "memory per connection",
        "0.62 KiB",
        "withheld",
        "-",
        "-",
        "not judged\nB: Too few sockets.",
    ]


def test_an_overview_leads_to_each_comparison(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    opened(browser, pages["overview"])
    links = browser.find_elements(By.CSS_SELECTOR, ".judged a")

    assert [link.text[:3] for link in links] == ["1: ", "2: "]
    for link in links:
        assert browser.find_element(By.CSS_SELECTOR, link.get_attribute("href").partition(".html")[2]).is_displayed()
    assert "240x" in browser.find_element(By.CSS_SELECTOR, ".judged").text


@pytest.mark.parametrize("name", ["run", "several", "comparison", "overview"])
def test_a_screen_reader_finds_headings_tables_and_names(
    browser: webdriver.Chrome, pages: dict[str, Path], name: str
) -> None:
    opened(browser, pages[name])
    levels = script(browser, "[...document.querySelectorAll('h1,h2,h3,h4')].map(each => +each.tagName[1])")
    labels = script(browser, "[...document.querySelectorAll('[role=graphics-document]')].map(each => each.ariaLabel)")
    drawn = "[...document.querySelectorAll('.picture')].filter(each => each.querySelector('.chart'))"
    described = script(browser, "[...document.querySelectorAll('[aria-describedby]')].map(each => each.role)")
    tables = script(browser, f"{drawn}.map(each => each.querySelectorAll('details table').length)")

    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    assert len(labels) == len(browser.find_elements(By.CLASS_NAME, "chart"))
    assert len(set(labels)) > len(labels) // 3
    assert all(count == 1 for count in tables)
    assert len(described) > 0.7 * len(labels)
    assert script(browser, "document.querySelectorAll('#how').length") == 1


def test_a_page_opens_alone_and_is_small(pages: dict[str, Path]) -> None:
    for page in pages.values():
        text = page.read_text()
        assert len(text.encode()) < MOST_BYTES + (500_000 if page.stem == "ten" else 0)
        links = re.findall(r"(?:src|href)=\"([^#\"][^\"]*)", re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL))
        assert set(links) == {"data:,"}


def test_a_page_is_the_same_bytes_for_the_same_run(pages: dict[str, Path]) -> None:
    assert render_runs_html([make_evidence()]) == pages["run"].read_text()
