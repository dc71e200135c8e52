"""A page in headless Chromium, driven as a person would: keys, widths, colours of the system.

Commands of the DevTools protocol through two pipes: no package, no port, and the page runs as it
is, with its policy.
"""

import fcntl
import json
import os
import select
import subprocess
import time
from contextlib import contextmanager

KEYS = {"Tab": 9, "Enter": 13, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


class Page:
    """An open page. complaints: what the browser or the page's script had to object to."""

    def __init__(self, sent, received):
        self._sent, self._received, self._rest = sent, received, b""
        self._number, self._session, self._loaded = 0, None, False
        self.complaints = []

    def open(self, url):
        """Load a page and wait for it."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        self.send("Page.navigate", url=url)
        while not self._loaded:
            self._take(self._read())

    def run(self, expression):
        """The value of an expression of JavaScript."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key):
        """Press and release a key."""
        common = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        down = {"type": "keyDown", "text": "\r"} if key == "Enter" else {"type": "rawKeyDown"}
        self.send("Input.dispatchKeyEvent", **down, **common)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def write(self, text):
        """Type a text where the focus is."""
        self.send("Input.insertText", text=text)

    def send(self, method, **params):
        """The answer to one command."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._sent, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            self._take(answer)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _take(self, event):
        self._loaded |= event.get("method") == "Page.loadEventFired"
        if event.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
            self.complaints.append(event["params"])

    def _read(self, seconds=120):
        end = time.monotonic() + seconds
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._received], [], [], max(0, end - time.monotonic()))
            part = os.read(self._received, 1 << 16) if ready else b""
            assert part, "the browser does not answer"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


@contextmanager
def driven(command, url):
    """Start the browser and open a page; both end with the block."""
    theirs_in, ours_out = _pipe()
    ours_in, theirs_out = _pipe()

    def connect():  # in the child: Chromium reads from 3 and writes to 4
        os.dup2(theirs_in, 3)
        os.dup2(theirs_out, 4)

    process = subprocess.Popen(
        [*command, "--remote-debugging-pipe"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        close_fds=False,  # of Python's own files none is inherited anyway
        preexec_fn=connect,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        page = Page(ours_out, ours_in)
        page.open(url)
        yield page
    finally:
        os.close(ours_out)  # it ends with its input
        os.close(ours_in)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _pipe():
    """Both ends of a pipe, with numbers that 3 and 4 do not overwrite."""
    ends = []
    for end in os.pipe():
        ends.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10))
        os.close(end)
    return ends
