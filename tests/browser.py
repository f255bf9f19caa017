"""A page in headless Chromium, looked at as a person would: at a width, on dark ground, on paper.

It is driven through its developer tools' pipe (two file descriptors, messages of JSON that end with a zero byte), so
that nothing else has to be installed and no port is opened.
"""

import json
import os
import shutil
import subprocess
import time
import warnings
import zlib
from base64 import b64decode
from collections.abc import Sequence
from pathlib import Path
from select import select
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from smidgen.closing import Closing

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--remote-debugging-pipe",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--allow-file-access-from-files",
)  # fmt: skip
_SECONDS = 60  # for an answer


def browser_or_skip() -> str:
    """Where Chromium is. Without one a test is skipped with a warning; in CI, where pages are looked at, it fails."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if found is None:
        said = "No Chromium is installed: nobody has looked at the pages (Debian: apt-get install chromium)."
        if os.environ.get("CI"):
            pytest.fail(said)
        warnings.warn(said, stacklevel=2)
        pytest.skip(said)
    return found


class Browser(Closing):
    """One Chromium with one empty page.

    console: what pages said to the console, exceptions included.  requested: every address that they asked for.
    """

    def __init__(self, program: str) -> None:
        self._profile = TemporaryDirectory(prefix="smidgen-browser-", ignore_cleanup_errors=True)
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        command = ["bash", "-c", f'exec 3<&{to_browser} 4>&{from_browser}; exec "$0" "$@"', program, *_FLAGS]
        self._process = subprocess.Popen(
            [*command, f"--user-data-dir={self._profile.name}", "about:blank"],
            pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._left, self._number = b"", 0
        self._session: str | None = None
        self.console: list[str] = []
        self.requested: list[str] = []
        self._events: list[str] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def show(self, page: Path | str, width: int = 1200, dark: bool = False, media: str = "screen") -> None:
        """Open a page (a file or an address) at a width in CSS pixels, on light or dark ground, or as if printed."""
        self.console.clear()
        self.requested.clear()
        self._ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self._events.clear()
        self._ask("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        while "Page.loadEventFired" not in self._events:
            self._take()

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return self._ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait_for(self, expression: str, seconds: float = _SECONDS) -> Any:
        """The value of a JavaScript expression, once it is true."""
        end = time.monotonic() + seconds
        while not (value := self.ask(expression)):
            assert time.monotonic() < end, f"{expression} is {value!r} after {seconds} s; {self.console}"
            time.sleep(0.05)
        return value

    def click(self, selector: str) -> None:
        """Click on what a CSS selector finds, once it is there and can be clicked on."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.wait_for(f"{found} && !{found}.disabled && {found}.getClientRects().length > 0")
        self.ask(f"{found}.click()")

    def type(self, selector: str, text: str, enter: bool = False) -> None:
        """Put a text into a field, in place of what is there, and press Enter on request."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.wait_for(f"{found} && !{found}.disabled && {found}.getClientRects().length > 0")
        self.ask(f"{found}.focus(); {found}.select()")
        self._ask("Input.insertText", text=text)
        if enter:
            for kind in ("keyDown", "keyUp"):
                self._ask(
                    "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r"
                )

    def picture(self, whole: bool = True) -> bytes:
        """The page as PNG: all of it, or what is in the window."""
        return b64decode(self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"])

    def printed(self) -> bytes:
        """The page as PDF, A4."""
        return b64decode(
            self._ask("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, preferCSSPageSize=True)["data"]
        )

    def close(self) -> None:
        """End Chromium and remove its profile."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for end in (self._write, self._read):
            if end >= 0:
                os.close(end)
        self._write = self._read = -1
        self._profile.cleanup()

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._take()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _take(self) -> dict[str, Any]:
        """The next message; what it tells is noted."""
        while b"\0" not in self._left:
            assert select([self._read], [], [], _SECONDS)[0], f"Chromium says nothing for {_SECONDS} s"
            part = os.read(self._read, 1 << 20)
            assert part, "Chromium has ended"
            self._left += part
        text, _, self._left = self._left.partition(b"\0")
        message = json.loads(text)
        method, told = message.get("method"), message.get("params", {})
        if method is not None:
            self._events.append(method)
        if method == "Network.requestWillBeSent":
            self.requested.append(told["request"]["url"])
        elif method == "Log.entryAdded":
            self.console.append(told["entry"]["text"])
        elif method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            self.console.append(json.dumps(told))
        return message


def assert_looks_right(browser: Browser, page: Path, headings: Sequence[str]) -> None:
    """At the width of a phone and of a desktop, on light and on dark ground, with all of these headings."""
    for width in (390, 1200):
        for dark in (False, True):
            browser.show(page, width, dark)
            text = browser.ask("document.body.innerText")
            assert all(heading in text for heading in headings), [one for one in headings if one not in text]
            assert browser.console == [] and browser.requested == [page.resolve().as_uri()]
            assert browser.ask("document.documentElement.scrollWidth") <= width
            assert browser.ask("[...document.querySelectorAll('svg')].every(one => one.getBBox().width > 50)")
            ground = browser.ask("getComputedStyle(document.body).backgroundColor")
            assert (int(ground.split("(")[1].split(",")[0]) < 64) == dark
            assert is_not_blank(browser.picture())


def is_not_blank(png: bytes) -> bool:
    """Whether a picture has many different bytes, as text has."""
    data, at = b"", 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4])
        data += png[at + 8 : at + 8 + length] if png[at + 4 : at + 8] == b"IDAT" else b""
        at += length + 12
    return len(set(zlib.decompress(data))) > 64
