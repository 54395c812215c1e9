"""A headless Chromium that a test drives through chromedriver, in the W3C's WebDriver protocol; a server for pages."""

import base64
import functools
import http.server
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")


def missing():
    """The programs that are not there."""
    return [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]


@contextmanager
def served(folder):
    """The address of a server on this machine that gives a folder's files out, as `python -m http.server` does."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Page:
    """One tab."""

    def __init__(self, base):
        self.base = base

    def open(self, address):
        self._post("url", {"url": address})

    def run(self, script, *arguments):
        """What the script returns; of a promise, what it comes to."""
        return self._post("execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script, *arguments, seconds=120):
        """The script's result as soon as it is true. AssertionError if it never is."""
        end = time.monotonic() + seconds
        while not (result := self.run(script, *arguments)):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)
        return result

    def picture(self, path):
        """A screenshot as .png."""
        Path(path).write_bytes(base64.b64decode(_call(f"{self.base}/screenshot")))

    def _post(self, what, body):
        return _call(f"{self.base}/{what}", body)


@contextmanager
def browser(width=1280, height=900, *, flags=()):
    """A tab that is so many pixels wide and high, as on a phone where it is narrow."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    driver = subprocess.Popen([shutil.which("chromedriver"), f"--port={port}"], **quiet)
    base = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{base}/status")
        options = {"args": [*FLAGS, f"--window-size={width},{height}", *flags]}
        if width < 500:  # no window is narrower
            options["mobileEmulation"] = {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 2}}
        wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
        session = f"{base}/session/{_call(f'{base}/session', wanted)['sessionId']}"
        try:
            yield Page(session)
        finally:
            _call(session, method="DELETE")
    finally:
        driver.terminate()
        driver.wait(30)


def _wait_for(address, seconds=60):
    end = time.monotonic() + seconds
    while True:
        try:
            return _call(address)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def _call(address, body=None, method=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine only
    with opener.open(request, timeout=300) as answer:
        return json.load(answer)["value"]
