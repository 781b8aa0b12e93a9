"""Debian's Chromium without a window: opens a page from a file, hears its console and its requests, counts what it shows."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = None if BROWSER and DRIVER else "needs chromium and chromedriver: tools/browser.sh installs them"

DESKTOP, PHONE = (1280, 900), (390, 844)


class Page:
    """An open page."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, *, dark: bool = False, size: tuple[int, int] = DESKTOP) -> None:
        """Open a file as a reader with these settings would."""
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": theme})
        self.logs()
        self.driver.get(path.resolve().as_uri())

    def logs(self) -> list[dict[str, Any]]:
        """What the console said since it was last asked."""
        return self.driver.get_log("browser")

    def requests(self) -> list[str]:
        """Every address that was asked for since this was last called, what lies inside the page left out."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith(("data:", "about:"))]

    def ask(self, script: str, *arguments: Any) -> Any:
        """The value of a JavaScript expression."""
        return self.driver.execute_script(f"return {script}", *arguments)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """A picture of the page, all of it or what is seen first."""
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": whole, **self._clip(whole)})
        path.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])

    def marks(self, figure: str) -> dict[str, int]:
        """The marks in a figure's drawing for a laptop: symbols, bars, cells, and the corners of its lines."""
        return self.ask(COUNT, figure)

    def collisions(self) -> list[Any]:
        """The labels of figures that touch each other or leave their card, in the drawings that are seen."""
        return self.ask(COLLISIONS)

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 15000), "scale": 1}}


COUNT = """((id) => {
  const drawing = document.querySelector(`#${id} .wide svg`), count = {};
  for (const group of drawing.querySelectorAll('[data-mark]')) {
    const kind = group.dataset.mark.replace('mark-', '');
    for (const path of group.querySelectorAll(':scope > path')) {
      const d = path.getAttribute('d') || '';
      const n = kind === 'line' ? (d.match(/[ML]/g) || []).length : 1;
      count[kind] = (count[kind] || 0) + n;
    }
    for (const [mark, element] of [['rule', 'line'], ['text', 'text']]) {
      if (kind === mark) count[kind] = (count[kind] || 0) + group.querySelectorAll(`:scope > ${element}`).length;
    }
  }
  return count;
})(arguments[0])"""


COLLISIONS = """(() => {
  const found = [];
  for (const figure of document.querySelectorAll('figure')) {
    const card = figure.getBoundingClientRect();
    for (const svg of figure.querySelectorAll('svg')) {
      const labels = [...svg.querySelectorAll('text')].map((t) => [t.textContent.trim(), t.getBoundingClientRect()])
        .filter(([words, r]) => words && r.width > 0);
      labels.forEach(([words, r], k) => {
        if (r.left < card.left || r.right > card.right) found.push([figure.id, words, 'leaves its card']);
        for (const [other, q] of labels.slice(k + 1)) {
          const across = Math.min(r.right, q.right) - Math.max(r.left, q.left);
          const down = Math.min(r.bottom, q.bottom) - Math.max(r.top, q.top);
          if (across > -2 && down > 3) found.push([figure.id, words, other]);
        }
      });
    }
  }
  return found;
})()"""


@contextmanager
def chrome() -> Iterator[Page]:
    """A browser for as long as the block lasts."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = str(BROWSER)
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--force-color-profile=srgb"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        driver.execute_cdp_cmd("Network.enable", {})
        yield Page(driver)
    finally:
        driver.quit()
