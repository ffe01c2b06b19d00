"""A headless Chromium beside the tests, by its DevTools protocol over two pipes: no driver, no package, no port."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OPTIONS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions", "--hide-scrollbars"]
# Whatever it is asked for by name, it does not find: a page that needs the network looks as it would without one.
ALONE = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND"]


def installed() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page:
    """One tab; `heard` is every event it told of so far."""

    def __init__(self, into: Any, out: Any) -> None:
        self.into, self.out, self.heard, self.count, self.session = into, out, [], 0, None

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters} | ({"sessionId": self.session} if self.session else {})
        self.into.write(json.dumps(message).encode() + b"\0")
        self.into.flush()
        while (told := self.listen()).get("id") != self.count:
            self.heard.append(told)
        assert "error" not in told, f"{method}: {told['error']}"
        return told["result"]

    def listen(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self.out.read(1)) != b"\0":
            assert byte, "the browser ended"
            text += byte
        return json.loads(text)

    def open(self, url: str, width: int) -> None:
        """Show the address as a phone or a window of this width would, and wait until it is loaded."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 600)
        self.heard.clear()
        self.call("Page.navigate", url=url)
        while self.ask("document.readyState") != "complete":
            pass

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def told(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.heard if event.get("method") == method]


@contextlib.contextmanager
def page() -> Iterator[Page]:
    """A new tab of a new browser, which ends with the block."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as home:
        # The protocol's file descriptors are 3 and 4, whatever ours are.
        told = f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$@"'
        command = [str(installed()), *OPTIONS, *ALONE, f"--user-data-dir={home}", "--remote-debugging-pipe", "about:blank"]
        with (Path(home) / "log").open("w") as log:
            browser = subprocess.Popen(["bash", "-c", told, "bash", *command], pass_fds=(theirs_in, theirs_out), stdout=log, stderr=log)
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            with os.fdopen(ours_out, "wb") as into, os.fdopen(ours_in, "rb") as out:
                tab = Page(into, out)
                target = tab.call("Target.createTarget", url="about:blank")["targetId"]
                tab.session = tab.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
                yield tab
        finally:
            browser.terminate()
            browser.wait(30)
