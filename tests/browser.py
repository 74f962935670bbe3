"""A headless Chromium, driven by the WebDriver protocol (W3C): Debian's packages chromium and chromium-driver."""

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import axe_core_python
import httpx
from PIL import Image

from tests.e2e.server import free_port
from tests.waiting import WAIT_SECONDS

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
IS_MISSING = CHROMIUM is None or DRIVER is None
REASON = "needs Debian's packages chromium and chromium-driver"
AXE = Path(axe_core_python.__file__).with_name("axe.min.js")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key of an element's reference (W3C WebDriver, 12.1)."""


class Browser:
    """One browser with one window. Use it as a context manager."""

    def __init__(self) -> None:
        port = free_port()
        self._driver = subprocess.Popen([str(DRIVER), f"--port={port}", "--silent"], stdout=subprocess.DEVNULL)
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_SECONDS)
        self._session = ""

    def __enter__(self) -> Self:
        try:
            self._until(self._is_up, "chromedriver answers")
            arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--lang=en-GB"]
            chrome = {"binary": CHROMIUM, "args": arguments}
            limits = {"script": int(1000 * WAIT_SECONDS), "pageLoad": int(1000 * WAIT_SECONDS)}
            wanted = {"goog:chromeOptions": chrome, "goog:loggingPrefs": {"browser": "ALL"}, "timeouts": limits}
            self._session = self._send("/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
            self.resize(1200, 860)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(httpx.HTTPError):
            self._http.delete(f"/session/{self._session}")
        self._http.close()
        self._driver.terminate()
        self._driver.wait(WAIT_SECONDS)

    def open(self, url: str) -> None:
        """Go to an address, and wait until the page has loaded."""
        self._do("url", {"url": "about:blank"})  # so that an address that differs in its fragment alone loads anew
        self._do("url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script's body returns."""
        return self._do("execute/sync", {"script": script, "args": arguments})

    def wait(self, expression: str, *arguments: Any) -> Any:
        """The first true value of an expression of JavaScript."""
        return self._until(lambda: self.run(f"return {expression}", *arguments), expression)

    def click(self, selector: str) -> None:
        """Click an element as a person does: it is scrolled to, and nothing may cover it."""
        self._do(f"element/{self._find(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Type over what a control has; of a file's control, choose the file at this path."""
        element = self._find(selector)
        if self.run("return arguments[0].type", {ELEMENT: element}) != "file":
            self._do(f"element/{element}/clear", {})
        self._do(f"element/{element}/value", {"text": text})

    def press(self, keys: str) -> None:
        """Press keys, one after the other, wherever the focus is."""
        strokes = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._do("actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def text(self, selector: str) -> str:
        """The text of an element as it is shown."""
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def choose(self, selector: str, value: str) -> None:
        """Choose an option."""
        self.click(f'{selector} option[value="{value}"]')

    def resize(self, width: int, height: int) -> None:
        """Give the page a size in CSS pixels, also one that is narrower than a window can be."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._chrome("Emulation.setDeviceMetricsOverride", screen)

    def prefer(self, scheme: str) -> None:
        """Prefer colours: "light" or "dark"."""
        self._chrome("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})

    def violations(self) -> list[str]:
        """What axe-core finds wrong with the page, in words."""
        self.run(AXE.read_text(encoding="utf-8"))
        found = self.run("return axe.run().then(({ violations }) => violations)")
        return [f"{each['id']}: {[node['html'] for node in each['nodes']]}" for each in found]

    def complaints(self) -> list[str]:
        """What the console has said since the last call, as of what the page's policy forbids."""
        return [str(entry["message"]) for entry in self._do("se/log", {"type": "browser"})]

    def picture(self, file: Path) -> None:
        """Keep what is shown, as a PNG of at most 256 colours, unless the file is there."""
        if file.exists():
            return
        file.parent.mkdir(exist_ok=True)
        shown = Image.open(BytesIO(base64.b64decode(self._do("screenshot", None))))
        shown.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)

    def _find(self, selector: str) -> str:
        found = self._do("element", {"using": "css selector", "value": selector})
        return str(found[ELEMENT])

    def _chrome(self, command: str, parameters: dict[str, Any]) -> None:
        self._do("goog/cdp/execute", {"cmd": command, "params": parameters})

    def _do(self, command: str, body: Any) -> Any:
        return self._send(f"/session/{self._session}/{command}", body)

    def _send(self, path: str, body: Any) -> Any:
        answer = self._http.get(path) if body is None else self._http.post(path, content=json.dumps(body))
        found = answer.json()["value"]
        assert answer.status_code == 200, f"{path}: {found}"
        return found

    def _is_up(self) -> bool:
        assert self._driver.poll() is None, "chromedriver has ended"
        with suppress(httpx.TransportError):
            return bool(self._http.get("/status").json()["value"]["ready"])
        return False

    @staticmethod
    def _until(condition: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            if found := condition():
                return found
            time.sleep(0.02)
        raise AssertionError(f"not within {WAIT_SECONDS:g} s: {what}")
