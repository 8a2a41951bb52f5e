"""A headless Chromium, driven by its own protocol over two pipes, without another package."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from flax_attn.porting.export.web_runtime import ADDRESS, DIGESTS, Runtime, find_runtime

# Where .ci/run has put onnxruntime-web; and that a browser must be there.
RUNTIME = "FLAX_ATTN_WEB_RUNTIME"
REQUIRED = "FLAX_ATTN_REQUIRE_BROWSER"

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Long, for machines that do other things, too.
SECONDS = 120.0

# The protocol is spoken on the descriptors 3 and 4.
_START = (
    "import os, sys\n"
    "os.dup2(int(sys.argv[1]), 3)\n"
    "os.dup2(int(sys.argv[2]), 4)\n"
    "os.execvp(sys.argv[3], sys.argv[3:])\n"
)
_FLAGS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"),
    *("--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
)


def find_chromium() -> str | None:
    """Returns the browser's executable, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def require_browser() -> tuple[str, Runtime]:
    """Returns a browser's executable and onnxruntime-web; without them the test is skipped.

    Where ``FLAX_ATTN_REQUIRE_BROWSER`` is set, as in .ci/run, it fails instead.
    """
    executable, folder = find_chromium(), os.environ.get(RUNTIME)
    if executable is None:
        lacking = f"none of {', '.join(NAMES)} is installed"
    elif folder is None:
        lacking = f"{RUNTIME} does not name a folder with {', '.join(DIGESTS)} of {ADDRESS}"
    else:
        return executable, find_runtime(Path(folder))
    if os.environ.get(REQUIRED):
        pytest.fail(f"{REQUIRED} is set, but {lacking}")
    pytest.skip(lacking)


class Browser:
    """A page of a browser, and what it has logged."""

    def __init__(self, commands: int, answers: int):
        self._commands, self._answers = commands, answers
        self._buffer, self._last, self._session = b"", 0, ""
        self.problems: list[str] = []
        self.requests: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = session
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Returns the answer to a command of the protocol."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            said = self._read()
            if said.get("id") == self._last:
                assert "error" not in said, said["error"]
                return said["result"]
            self._note(said)

    def _read(self) -> dict[str, Any]:
        ends = time.monotonic() + SECONDS
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], ends - time.monotonic())
            part = os.read(self._answers, 1 << 20) if ready else b""
            assert part, "the browser does not answer"
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)

    def _note(self, said: dict[str, Any]) -> None:
        given = said.get("params", {})
        match said.get("method"):
            case "Runtime.exceptionThrown":
                self.problems.append(str(given["exceptionDetails"]))
            case "Log.entryAdded" if given["entry"]["level"] in ("error", "warning"):
                self.problems.append(given["entry"]["text"])
            case "Runtime.consoleAPICalled" if given["type"] in ("error", "warning"):
                self.problems.append(str(given["args"]))
            case "Network.requestWillBeSent":
                self.requests.append(given["request"]["url"])

    def open(self, address: str) -> None:
        self.send("Page.navigate", url=address)

    def evaluate(self, expression: str) -> Any:
        """Returns the value of an expression in the page; one that is a promise is awaited."""
        said = self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def wait(self, expression: str) -> None:
        """Waits until an expression is true."""
        ends = time.monotonic() + SECONDS
        while not self.evaluate(f"Boolean({expression})"):
            page = self.evaluate("document.body?.innerText")
            assert time.monotonic() < ends, f"{expression} never came; {page!r}; {self.problems}"
            time.sleep(0.05)

    def choose(self, selector: str, *files: Path) -> None:
        """Puts files into a file input."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def show(self, width: int, height: int, *, dark: bool = False) -> None:
        """Sets the size of the window and its colours."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def shoot(self, path: Path, *, whole: bool = False) -> None:
        """Writes a picture of the window, or of the whole page."""
        picture = self.send("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(picture))


@contextmanager
def browsing(executable: str, profile: Path) -> Iterator[Browser]:
    """Yields a browser with a new profile; ends it afterwards."""
    given, commands = os.pipe()
    answers, said = os.pipe()
    # High numbers, so that the child can give them 3 and 4.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (given, said)]
    for end in (given, said):
        os.close(end)
    process = subprocess.Popen(
        [sys.executable, "-c", _START, *map(str, ends), executable, *_FLAGS,
         f"--user-data-dir={profile}"],
        pass_fds=ends,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for end in ends:
        os.close(end)
    try:
        browser = Browser(commands, answers)
        yield browser
        browser._session = ""
        with suppress(OSError, AssertionError):
            browser.send("Browser.close")
    finally:
        os.close(commands)
        os.close(answers)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
