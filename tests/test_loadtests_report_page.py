"""The pages of reports and comparisons in a real headless browser: drawn, quiet, without a network, in every light."""

from __future__ import annotations

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

from loadtests.recording import Recording
from loadtests.report.comparison_page import render_comparison_html
from loadtests.report.evidence import evidence_of
from loadtests.report.page import render_runs_html
from loadtests.verdict import Verdict
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
SIZES = {"desktop": (1280, "light"), "dark phone": (400, "dark")}

pytestmark = [
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
    """Pages of every kind: with everything, with nothing, several runs, a comparison, and one that is hostile."""
    folder = tmp_path_factory.mktemp("pages")
    hostile = '</script><script>alert("x")</script>|`${1}`\\'
    doubtful = make_run(label=hostile, phases={}, verdict=Verdict("noisy-host", [hostile]), errors={hostile: 3})
    texts = {
        "run": render_runs_html([make_evidence()]),
        "nothing": render_runs_html([evidence_of(make_run(figures=[], phases={}), Recording(), [])]),
        "several": render_runs_html([make_evidence(make_run(label=label, phases=PHASES)) for label in "ab"]),
        "doubtful": render_runs_html([evidence_of(doubtful, make_recording(response=False), [])]),
        "comparison": render_comparison_html(make_comparison(folder / "runs")),
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text)
    return {name: folder / f"{name}.html" for name in texts}


def opened(browser: webdriver.Chrome, page: Path, width: int = 1280, light: str = "light") -> None:
    """The page, drawn, in a window so wide and a system so light."""
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
    ("name", "charts"), [("run", 13), ("nothing", 0), ("several", 27), ("doubtful", 9), ("comparison", 15)]
)
def test_a_page_is_drawn_without_a_word_or_a_network(
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


def test_where_somebody_points_a_tip_says_what_is_there(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    opened(browser, pages["run"])
    chart = browser.find_elements(By.CSS_SELECTOR, ".chart svg")[2]
    ActionChains(browser).move_to_element(chart).perform()
    tip = browser.find_element(By.CLASS_NAME, "tip")
    wait_for(tip.is_displayed, "the tip")

    assert "second 9.5\nexchanges a second: 300" in tip.text


def test_a_keyboard_reaches_the_tables_and_sees_where_it_is(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    opened(browser, pages["run"])
    focus = browser.switch_to
    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert focus.active_element.text == "To the report"
    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert focus.active_element.tag_name == "summary"
    assert script(browser, "getComputedStyle(document.activeElement).outlineStyle") == "solid"
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    assert browser.find_element(By.CSS_SELECTOR, "details[open] table").is_displayed()


@pytest.mark.parametrize("name", ["run", "several", "comparison"])
def test_a_screen_reader_finds_headings_tables_and_names(
    browser: webdriver.Chrome, pages: dict[str, Path], name: str
) -> None:
    opened(browser, pages[name])
    levels = script(browser, "[...document.querySelectorAll('h1,h2,h3,h4')].map(each => +each.tagName[1])")
    labels = script(browser, "[...document.querySelectorAll('[role=graphics-document]')].map(each => each.ariaLabel)")
    drawn = "[...document.querySelectorAll('.picture')].filter(each => each.querySelector('.chart'))"
    tables = script(browser, f"{drawn}.map(each => each.querySelectorAll('details table').length)")

    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    assert len(labels) == len(browser.find_elements(By.CLASS_NAME, "chart"))
    assert len(set(labels)) > len(labels) // 3
    assert all(count == 1 for count in tables)


def test_a_page_opens_alone_and_is_small(pages: dict[str, Path]) -> None:
    for page in pages.values():
        text = page.read_text()
        assert len(text.encode()) < MOST_BYTES
        links = re.findall(r"(?:src|href)=\"([^#\"][^\"]*)", re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL))
        assert set(links) == {"data:,"}


def test_a_page_is_the_same_bytes_for_the_same_run(pages: dict[str, Path]) -> None:
    assert render_runs_html([make_evidence()]) == pages["run"].read_text()
