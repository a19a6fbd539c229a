"""Locust's web UI with the stock locustfile in a real headless browser: start, watch and stop a swarm."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from loadtests.host.subprocesses import free_port
from tests.helpers.processes import GserverProcess, wait_for

LOCUSTFILE = Path(__file__).parents[2] / "loadtests" / "locustfile.py"
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
# Flags with which the browser makes as few connections of its own as possible.
BROWSER_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
]

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not BROWSER or not DRIVER, reason="chromium and chromedriver are not installed"),
]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in [*BROWSER_FLAGS, f"--user-data-dir={tmp_path / 'browser'}"]:
        options.add_argument(flag)
    driver = webdriver.Chrome(options, Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@dataclass(frozen=True)
class Waiting:
    """A Locust with its web UI at `url` that waits for the start of a swarm on `server`."""

    url: str
    server: GserverProcess


@pytest.fixture
def locust(tmp_path: Path) -> Iterator[Waiting]:
    log, stats = tmp_path / "locust.log", tmp_path / "stats"
    with GserverProcess(tmp_path, "json", "--stats-socket", str(stats)) as server, log.open("wb") as output:
        host = "tcp://{}:{}".format(*server.address)
        web = ["--web-host", "127.0.0.1", "--web-port", str(free_port())]
        watched = ["--server-pid", str(server.process.pid), "--server-stats", str(stats)]
        command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--host", host, *web, *watched]
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            wait_for(lambda: b"live samples are at /server" in log.read_bytes(), "Locust's web interface", 120)
            found = re.search(r"http://[\d.:]+", log.read_text())
            assert found
            yield Waiting(found[0], server)
        finally:
            process.terminate()
            process.wait(60)


def rows_of(browser: webdriver.Chrome) -> dict[str, list[str]]:
    """Return the rows of the statistics table, by request name."""
    script = "return [...document.querySelectorAll('table tr')].map(r => [...r.cells].map(c => c.innerText))"
    assert browser.find_elements(By.TAG_NAME, "table")
    return {cells[1]: cells for cells in browser.execute_script(script) if len(cells) > 3}


def start_swarm(browser: webdriver.Chrome) -> None:
    wait_for(lambda: bool(browser.find_elements(By.NAME, "userCount")), "the form")
    for name, text in [("userCount", "20"), ("spawnRate", "20")]:
        field = browser.find_element(By.NAME, name)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text)
    browser.find_element(By.CSS_SELECTOR, "button[type=submit]").click()


def stop_swarm(browser: webdriver.Chrome) -> None:
    for button in browser.find_elements(By.TAG_NAME, "button"):
        if button.text.strip().lower() == "stop":
            button.click()
            break
    wait_for(lambda: "STOPPED" in browser.find_element(By.TAG_NAME, "body").text.upper(), "the swarm has stopped")


def open_page(browser: webdriver.Chrome, url: str) -> None:
    """Open a page; Locust may log its URL before it accepts connections."""

    def is_there() -> bool:
        try:
            browser.get(url)
        except WebDriverException:
            return False
        return True

    wait_for(is_there, f"an answer from {url}")
    browser.get_log("browser")


def complaints(browser: webdriver.Chrome) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_a_swarm_is_started_watched_and_stopped(browser: webdriver.Chrome, locust: Waiting) -> None:
    open_page(browser, locust.url)
    start_swarm(browser)

    def swarm_runs() -> bool:
        rows = rows_of(browser) if browser.find_elements(By.TAG_NAME, "table") else {}
        return {"GREETING", "SUM", "connect"} <= set(rows) and rows["connect"][2] == "20"

    wait_for(swarm_runs, "20 connects and both kinds of exchanges in the table")

    assert all(row[3] == "0" for row in rows_of(browser).values() if row[1] in ("GREETING", "SUM", "connect"))
    stop_swarm(browser)
    assert complaints(browser) == []


def charts_of(browser: webdriver.Chrome) -> dict[str, str]:
    """Return the visible charts: name -> the longest line in it."""
    paths = "[...each.querySelectorAll('path')].map(p => p.getAttribute('d') ?? '')"
    line = f"{paths}.sort((a, b) => b.length - a.length)[0]"
    shown = "[...document.querySelectorAll('.chart:not([hidden])')].filter(each => each.querySelector('svg'))"
    return dict(browser.execute_script(f"return {shown}.map(each => [each.dataset.column, {line}])"))


def test_live_charts_of_the_server_are_shown_beside_locusts_own(browser: webdriver.Chrome, locust: Waiting) -> None:
    open_page(browser, f"{locust.url}/server")
    wait_for(lambda: {"cpu", "rss", "sockets", "messages", "queue", "lag"} == set(charts_of(browser)), "charts", 20)
    before = charts_of(browser)

    browser.switch_to.frame(browser.find_element(By.TAG_NAME, "iframe"))
    start_swarm(browser)
    wait_for(lambda: bool(browser.find_elements(By.TAG_NAME, "canvas")), "Locust's charts")
    browser.switch_to.default_content()
    newest = "return fetch('server/rows').then(answer => answer.json()).then(told => told.rows.at(-1))"
    wait_for(lambda: browser.execute_script(newest)["sockets"] == 20, "20 connections in a sample", 20)
    wait_for(lambda: browser.execute_script(newest)["messages"] > 0, "messages in a sample")
    moved = {"cpu", "sockets", "messages"}
    wait_for(lambda: all(charts_of(browser)[each] != before[each] for each in moved), "lines that go on")

    locust.server.process.terminate()
    wait_for(lambda: "has ended" in browser.find_element(By.ID, "said").text, "that the server has ended")
    assert complaints(browser) == []
