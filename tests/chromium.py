"""Debian's headless ``chromium``, controlled over two pipes without a package, port or driver."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path


def path() -> str | None:
    """Path of the browser; ``None`` if it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Chromium:
    """One page in one browser.

    Args:
        folder: Folder for the browser's profile.
    """

    def __init__(self, folder: Path) -> None:
        (read_theirs, self._write), (self._read, write_theirs) = os.pipe(), os.pipe()
        # The protocol uses descriptors 3 and 4; bash redirects them to the pipes.
        self.process = subprocess.Popen(
            [
                *("bash", "-c", f'exec "$@" 3<&{read_theirs} 4>&{write_theirs}', "bash", path()),
                *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
                *("--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={folder}"),
            ],
            pass_fds=(read_theirs, write_theirs),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(read_theirs)
        os.close(write_theirs)
        self._buffer, self._last, self._session = b"", 0, None
        self.events: list[dict] = []
        try:
            target = self.send("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Network", "Runtime", "Log"):
                self.send(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Terminate the browser and the processes it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._write)
        os.close(self._read)

    def send(self, method: str, **params: object) -> dict:
        """Send one command and return its result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                return answer["result"]

    def _receive(self) -> dict:
        until = time.monotonic() + 60
        while b"\0" not in self._buffer:
            assert select.select([self._read], [], [], until - time.monotonic())[0], "chromium hangs"
            part = os.read(self._read, 1 << 20)
            assert part, "chromium has exited"
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message

    def open(self, url: str) -> None:
        """Load a page and wait until it has finished loading."""
        self.events.clear()
        self.send("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._receive()

    def run(self, script: str) -> object:
        """Evaluate a JavaScript expression, await it and return its value."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def named(self, method: str) -> list[dict]:
        """Parameters of the events with this name since the page was opened."""
        self.run("new Promise((done) => setTimeout(done, 50))")
        return [event["params"] for event in self.events if event["method"] == method]

    def press(self, key: str, code: str = "") -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=code or key)

    def mouse(self, kind: str, x: float, y: float) -> None:
        """Send a mouse event; ``kind`` is ``Pressed``, ``Moved`` or ``Released``."""
        button = {} if kind == "Moved" else {"clickCount": 1}
        self.send(
            "Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, button="left", buttons=1, **button
        )
