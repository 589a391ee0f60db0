"""A page in a real browser, by chromedriver's WebDriver protocol; no package needed."""

from __future__ import annotations

import base64
import contextlib
import json
import pathlib
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
needs_browser = pytest.mark.skipif(
    not (shutil.which("chromedriver") and any(map(shutil.which, BROWSERS))),
    reason="no chromium with its chromedriver",
)

# The contrast of each text with what lies behind it (WCAG 2.2), the lowest first.
CONTRASTS = """
const canvas = document.createElement('canvas').getContext(
  '2d', {willReadFrequently: true});
function rgba(colour) {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
}
function light([r, g, b]) {
  const [x, y, z] = [r, g, b].map(v => v / 255).map(
    v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
}
function over(top, below) {
  return [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
}
function behind(node) {
  const chain = [];
  for (let at = node; at; at = at.parentElement)
    chain.push(rgba(getComputedStyle(at).backgroundColor));
  let colour = [255, 255, 255];
  for (const layer of chain.reverse()) colour = over(layer, colour);
  return colour;
}
const found = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const node = walk.currentNode.parentElement;
  if (!walk.currentNode.data.trim() || !node.getClientRects().length) continue;
  const style = getComputedStyle(node);
  const ink = rgba(node.namespaceURI.endsWith('svg') ? style.fill : style.color);
  const paper = behind(node);
  const [a, b] = [light(over(ink, paper)), light(paper)].sort((x, y) => y - x);
  found.push([(a + 0.05) / (b + 0.05), walk.currentNode.data.trim().slice(0, 40)]);
}
return found.sort((x, y) => x[0] - y[0]);
"""


class Browser:
    """A headless browser's one window, 390 or more pixels wide."""

    def __init__(self, address: str, width: int, height: int = 900):
        program = next(filter(None, map(shutil.which, BROWSERS)))
        options = {
            "binary": program,
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu"],
            "mobileEmulation": {
                "deviceMetrics": {
                    "width": width,
                    "height": height,
                    "pixelRatio": 1,
                    "mobile": width < 600,
                    "touch": False,
                }
            },
        }
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        self._address = address
        answer = self._post("/session", {"capabilities": {"alwaysMatch": wanted}})
        self._address = f"{address}/session/{answer['sessionId']}"

    def open(self, page: pathlib.Path, *, dark: bool = False) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.developer("Emulation.setEmulatedMedia", {"features": [scheme]})
        self._post("/url", {"url": page.resolve().as_uri()})

    def run(self, script: str) -> Any:
        """What a function's body returns."""
        return self._post("/execute/sync", {"script": script, "args": []})

    def wait(self, script: str) -> Any:
        """What a script hands to `done`."""
        text = f"const done = arguments[0]; {script}"
        return self._post("/execute/async", {"script": text, "args": []})

    def log(self) -> list[str]:
        """What the console said."""
        return [x["message"] for x in self._post("/se/log", {"type": "browser"})]

    def developer(self, command: str, values: dict) -> Any:
        return self._post("/goog/cdp/execute", {"cmd": command, "params": values})

    def picture(self, file: pathlib.Path, *, whole: bool = True) -> None:
        """Writes a PNG; whole: of the whole page, not of the window."""
        found = self.developer(
            "Page.captureScreenshot", {"captureBeyondViewport": whole, "format": "png"}
        )
        file.write_bytes(base64.b64decode(found["data"]))

    def close(self) -> None:
        request = urllib.request.Request(self._address, method="DELETE")
        urllib.request.urlopen(request, timeout=20).close()

    def _post(self, path: str, content: dict) -> Any:
        request = urllib.request.Request(
            self._address + path,
            json.dumps(content).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]


@contextlib.contextmanager
def browser(width: int) -> Iterator[Browser]:
    """A browser whose window is so many pixels wide."""
    driver = subprocess.Popen(
        ["chromedriver", "--port=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert driver.stdout is not None
        for line in driver.stdout:
            if found := re.search(r"successfully on port (\d+)", line):
                break
        else:
            raise AssertionError("chromedriver said no port")
        made = Browser(f"http://127.0.0.1:{found[1]}", width)
        try:
            yield made
        finally:
            made.close()
    finally:
        driver.terminate()
        driver.wait(timeout=20)
        if driver.stdout is not None:
            driver.stdout.close()
