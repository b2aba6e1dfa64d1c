"""A real browser for tests: headless Chromium, driven through its DevTools protocol over pipes."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ANSWER_SECONDS = 60.0


class Browser:
    """One tab of a running Chromium.

    Attributes:
        events: what the browser told since `open`, as (method, parameters).
    """

    def __init__(self, process: subprocess.Popen[bytes], to_browser: int, from_browser: int) -> None:
        self._process, self._to, self._from = process, to_browser, from_browser
        self._number, self._rest, self._session = 0, b"", ""
        self.events: list[tuple[str, dict[str, Any]]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for area in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{area}.enable")

    def ask(self, method: str, **parameters: object) -> dict[str, Any]:
        """Send a command and return the answer.

        Raises:
            RuntimeError: the browser refused.
        """
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append((answer["method"], answer.get("params", {})))

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + ANSWER_SECONDS
        while b"\0" not in self._rest:
            if not select.select([self._from], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError("Chromium gives no answer")
            piece = os.read(self._from, 1 << 20)
            if not piece:
                raise RuntimeError("Chromium has ended")
            self._rest += piece
        message, self._rest = self._rest.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(message)
        return answer

    def open(self, url: str) -> None:
        """Load a page and wait until it is drawn."""
        self.events.clear()
        self.ask("Page.navigate", url=url)
        self.evaluate(
            "new Promise(done => { const drawn = () => requestAnimationFrame(() => setTimeout(done));"
            " document.readyState === 'complete' ? drawn() : addEventListener('load', drawn); })"
        )

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page, awaited.

        Raises:
            RuntimeError: it threw.
        """
        answer = self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def size(self, width: int, height: int = 900, scale: float = 1.0, *, phone: bool = False) -> None:
        """Give the page a window of this size in CSS pixels."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=phone,
        )

    def media(self, kind: str = "", scheme: str = "light") -> None:
        """Show the page for a kind of media in a colour scheme."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", media=kind, features=features)
        # The page is told between two frames, and draws before the next one.
        self.evaluate(
            "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"
        )

    def key(self, name: str) -> None:
        """Press and release a key."""
        text = {"text": name} if len(name) == 1 else {}
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=name, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=name)

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write a screenshot as PNG, of the window or of the whole page."""
        answer = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def paper(self, path: Path) -> None:
        """Print the page as PDF."""
        answer = self.ask("Page.printToPDF", printBackground=False, paperWidth=8.27, paperHeight=11.69)
        path.write_bytes(base64.b64decode(answer["data"]))

    @property
    def complaints(self) -> list[str]:
        """What went wrong since `open`: exceptions, messages on the console, breaches of the policy."""
        told = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [f"{method}: {json.dumps(parameters)}" for method, parameters in self.events if method in told]

    @property
    def requests(self) -> list[str]:
        """Addresses that were asked for since `open`, the page's own included."""
        sent = [event for method, event in self.events if method == "Network.requestWillBeSent"]
        return [event["request"]["url"] for event in sent]


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Run a browser with an empty profile; without a network but this machine's."""
    if CHROMIUM is None:
        raise RuntimeError("Chromium is not installed: apt-get install chromium")
    read_commands, write_commands = os.pipe()
    read_answers, write_answers = os.pipe()
    arguments = [
        "--headless=new",
        "--remote-debugging-pipe",
        # Needed for root, as in containers.
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
        "about:blank",
    ]
    # Chromium reads commands from 3 and writes answers to 4.
    script = 'exec "$0" "$@" 3<&"$MLMETER_COMMANDS" 4>&"$MLMETER_ANSWERS"'
    process = subprocess.Popen(
        ["/bin/bash", "-c", script, CHROMIUM, *arguments],
        pass_fds=(read_commands, write_answers),
        env={**os.environ, "MLMETER_COMMANDS": str(read_commands), "MLMETER_ANSWERS": str(write_answers)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(read_commands)
    os.close(write_answers)
    try:
        yield Browser(process, write_commands, read_answers)
    finally:
        os.close(write_commands)
        os.close(read_answers)
        try:
            # It ends when the pipe does.
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
