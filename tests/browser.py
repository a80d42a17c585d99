"""A headless Chromium, driven over two pipes by its DevTools protocol: pages are used as a person uses them."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time

COMMAND = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


class Browser:
    """One window with one page. Use it in a `with`.

    Args:
        width: Of the window in pixels.
        height: Likewise.
    """

    def __init__(self, width=1280, height=900):
        self.size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}

    def __enter__(self):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        commands_out, self.commands = os.pipe()
        self.events, events_in = os.pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        options += ["--remote-debugging-pipe", f"--user-data-dir={self.profile.name}"]
        # Chromium reads commands from 3 and writes to 4: a shell puts the pipes there.
        script = f'exec "$@" 3<&{commands_out} 4>&{events_in}'
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", COMMAND, *options],
            pass_fds=(commands_out, events_in),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands_out)
        os.close(events_in)
        self.numbers, self.rest, self.session = itertools.count(1), b"", None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Emulation.setDeviceMetricsOverride", **self.size)
        self.errors = []
        self.call("Runtime.enable")
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.commands)
        os.close(self.events)
        self.profile.cleanup()

    def call(self, method, **params):
        """One command of the protocol; errors of the page are kept in `errors`."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(answer["params"]["exceptionDetails"])
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _read(self):
        while b"\0" not in self.rest:
            part = os.read(self.events, 1 << 20)
            assert part, "the browser has ended"
            self.rest += part
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def open(self, path, fragment="", seconds=30):
        """Opens a file and waits until it is loaded."""
        self.call("Page.navigate", url=f"{path.resolve().as_uri()}{fragment}")
        self.until("document.readyState === 'complete' && location.protocol === 'file:'", seconds)

    def run(self, script):
        """The value of an expression."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, script, seconds=30):
        """Waits until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)

    def hover(self, element, row, column):
        """Moves the mouse to a place in an element, in shares of its height and width."""
        box = self.run(f"Object.values({element}.getBoundingClientRect().toJSON()).slice(0, 4)")  # x y width height
        x, y = box[0] + column * box[2], box[1] + row * box[3]
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def choose(self, select, value):
        """Chooses an entry of a list."""
        self.run(f"{select}.value = {json.dumps(value)}; {select}.dispatchEvent(new Event('change'))")

    def screenshot(self, path):
        """Saves what the window shows."""
        content = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(content))
