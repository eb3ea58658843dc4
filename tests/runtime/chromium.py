"""A headless Chromium, driven over its DevTools protocol: opens a page, runs script in it, takes pictures, tells its console."""

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
from pathlib import Path

import aiohttp
import pytest

_START_S, _ANSWER_S = 60, 60


@contextlib.asynccontextmanager
async def browser(profile: Path):
    """Yield a Tab of a new browser. Skips the test where there is no Chromium."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium: apt-get install chromium")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0", f"--user-data-dir={profile}"]
    process = subprocess.Popen([program, *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        async with aiohttp.ClientSession() as session:
            url = await _page_url(session, profile / "DevToolsActivePort")
            async with session.ws_connect(url, max_msg_size=0) as socket:
                tab = Tab(socket)
                listening = asyncio.create_task(tab.listen())
                await tab.call("Page.enable")
                await tab.call("Runtime.enable")
                await tab.call("Log.enable")
                yield tab
                listening.cancel()
    finally:
        process.terminate()
        process.wait()


async def _page_url(session, port_file):
    deadline = time.monotonic() + _START_S
    while not port_file.exists() or not port_file.read_text():
        assert time.monotonic() < deadline, "chromium did not start"
        await asyncio.sleep(0.1)
    async with session.get(f"http://127.0.0.1:{port_file.read_text().split()[0]}/json/list") as answer:
        return next(target["webSocketDebuggerUrl"] for target in await answer.json() if target["type"] == "page")


class Tab:
    """One tab. complaints: what its console said that is a warning or worse, uncaught errors and refusals of the security policy."""

    def __init__(self, socket):
        self.complaints = []
        self._socket, self._numbers, self._answers = socket, itertools.count(1), {}

    async def listen(self):
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            elif said["method"] == "Runtime.exceptionThrown":
                self.complaints.append(said["params"]["exceptionDetails"])
            elif said["method"] == "Log.entryAdded" and said["params"]["entry"]["level"] in ("warning", "error"):
                self.complaints.append(said["params"]["entry"]["text"])
            elif said["method"] == "Runtime.consoleAPICalled" and said["params"]["type"] in ("warning", "error", "assert"):
                self.complaints.append(said["params"]["args"])

    async def call(self, method, **parameters):
        """Send a command and return its result."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        said = await asyncio.wait_for(answer, _ANSWER_S)
        assert "result" in said, said
        return said["result"]

    async def size(self, width, height, *, dark=False, scale=1, mobile=False):
        """Make the window that large, in CSS pixels."""
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.call("Emulation.setEmulatedMedia", features=scheme)

    async def open(self, url):
        """Begin to load a page."""
        await self.call("Page.navigate", url=url)

    async def evaluate(self, script):
        """Run script in the page and return its value; a promise is waited for."""
        done = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def until(self, script, seconds=60):
        """Wait until script is true in the page; it may fail as long as the page is not there."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(AssertionError):
                if await self.evaluate(script):
                    return
            await asyncio.sleep(0.1)
        raise AssertionError(f"not within {seconds} s: {script}")

    async def screenshot(self, path, *, whole=False):
        """Write a picture of the window, or of the whole page, as PNG."""
        done = await self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(done["data"]))
