"""A headless Chromium, driven by its DevTools protocol, that finds no host but this machine."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--remote-debugging-port=0",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
WAIT_S = 60.0


class Tab:
    """One page. `asked`: every address that it requested; `complaints`: what its console says of errors."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._numbers, self._session = socket, itertools.count(1), ""
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.asked: list[str] = []
        self.complaints: list[str] = []

    async def listen(self) -> None:
        """Take answers and events until the connection ends."""
        async for text in self._socket:
            message = json.loads(text)
            if waiting := self._answers.pop(message.get("id", 0), None):
                waiting.set_result(message)
            else:
                self._heard(message.get("method"), message.get("params", {}))

    def _heard(self, event: str, given: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.asked.append(given["request"]["url"])
        elif event == "Log.entryAdded" and given["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{given['entry']['text']} {given['entry'].get('url', '')}")
        elif event == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning", "assert"):
            self.complaints.append(str([one.get("value", one.get("description")) for one in given["args"]]))
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(str(given["exceptionDetails"]))

    async def call(self, method: str, **given: Any) -> dict[str, Any]:
        """A command of the protocol. Raises: RuntimeError, Chromium refuses it."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        session = {"sessionId": self._session} if self._session else {}
        await self._socket.send(json.dumps({"id": number, "method": method, "params": given, **session}))
        async with asyncio.timeout(WAIT_S):
            message = await answer
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        return dict(message["result"])

    async def attach(self) -> None:
        """Open the page and begin to note what it does."""
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            await self.call(f"{domain}.enable")

    async def size(self, width: int, height: int) -> None:
        """Be a screen of this size; a phone's below 500 pixels."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )

    async def dark(self, is_dark: bool = True) -> None:
        """Prefer dark colours, or light ones."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def value(self, script: str) -> Any:
        """What a script comes to. Raises: RuntimeError, it throws."""
        done = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in done:
            raise RuntimeError(f"{script}: {done['exceptionDetails']}")
        return done["result"].get("value")

    async def until(self, script: str) -> Any:
        """The first value of a script that is not empty. Raises: TimeoutError."""
        async with asyncio.timeout(WAIT_S):
            while not (found := await self.value(script)):  # noqa: ASYNC110  there is no event for it
                await asyncio.sleep(0.05)
        return found

    async def picture(self) -> bytes:
        """What is seen, as a PNG."""
        shot = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(shot["data"])


def _address(told: Path) -> str | None:
    """Where Chromium listens; None: it has not told yet."""
    lines = told.read_text().splitlines() if told.exists() else []
    return f"ws://127.0.0.1:{lines[0]}{lines[1]}" if len(lines) == 2 else None


@contextlib.asynccontextmanager
async def tab(folder: Path) -> AsyncIterator[Tab]:
    """
    Args:
        folder: where Chromium keeps its profile.
    """
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        *(CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(WAIT_S):
            while (address := _address(folder / "profile" / "DevToolsActivePort")) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        async with connect(address, max_size=None) as socket:
            page = Tab(socket)
            listening = asyncio.create_task(page.listen())
            try:
                await page.attach()
                yield page
                with contextlib.suppress(TimeoutError):
                    await page.call("Target.getTargets")  # what was said before is heard before
            finally:
                listening.cancel()
    finally:
        process.terminate()
        await process.wait()
