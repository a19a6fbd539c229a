"""Locust's own web UI with the stock locustfile, in a real headless browser: start a swarm, watch it, stop it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from loadtests.processes import free_port
from tests.helpers.processes import GserverProcess, wait_for

LOCUSTFILE = Path(__file__).parent.parent / "loadtests" / "locustfile.py"
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
# As few connections of its own as a browser can be asked to make.
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
    pytest.mark.slow,
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


@pytest.fixture
def locust(tmp_path: Path) -> Iterator[str]:
    """The address of a Locust that waits, with its web UI, for somebody to start a swarm on a JSON server."""
    log = tmp_path / "locust.log"
    with GserverProcess(tmp_path, "json") as server, log.open("wb") as output:
        host = "tcp://{}:{}".format(*server.address)
        web = ["--web-host", "127.0.0.1", "--web-port", str(free_port())]
        command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--host", host, *web]
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            wait_for(lambda: b"web interface at" in log.read_bytes(), "Locust's web interface")
            found = re.search(r"http://[\d.:]+", log.read_text())
            assert found
            yield found[0]
        finally:
            process.terminate()
            process.wait(20)


def rows_of(browser: webdriver.Chrome) -> dict[str, list[str]]:
    """The statistics table by request name, as a person reads it."""
    script = "return [...document.querySelectorAll('table tr')].map(r => [...r.cells].map(c => c.innerText))"
    assert browser.find_elements(By.TAG_NAME, "table")
    return {cells[1]: cells for cells in browser.execute_script(script) if len(cells) > 3}


def test_a_swarm_is_started_watched_and_stopped(browser: webdriver.Chrome, locust: str) -> None:
    browser.get(locust)
    wait_for(lambda: bool(browser.find_elements(By.NAME, "userCount")), "the form")
    for name, text in [("userCount", "20"), ("spawnRate", "20")]:
        field = browser.find_element(By.NAME, name)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text)
    browser.find_element(By.CSS_SELECTOR, "button[type=submit]").click()

    def swarm_runs() -> bool:
        rows = rows_of(browser) if browser.find_elements(By.TAG_NAME, "table") else {}
        return {"GREETING", "SUM", "connect"} <= set(rows) and rows["connect"][2] == "20"

    wait_for(swarm_runs, "20 connects and both kinds of exchanges in the table")

    assert all(row[3] == "0" for row in rows_of(browser).values() if row[1] in ("GREETING", "SUM", "connect"))

    for button in browser.find_elements(By.TAG_NAME, "button"):
        if button.text.strip().lower() == "stop":
            button.click()
            break
    wait_for(lambda: "STOPPED" in browser.find_element(By.TAG_NAME, "body").text.upper(), "the swarm has stopped")
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []
