"""A page of another site in a real browser: EventSource, WebSocket and fetch, across a restart of the server."""

from __future__ import annotations

import json
import queue
import shutil
import signal
import subprocess
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.live.clients import publish
from tests.mariadb import free_port
from tests.processes import run, running

_SECONDS = 60
_PAGE = """<!doctype html><title>live</title><script>
const api = "http://127.0.0.1:PORT/api/live/";
let last = Promise.resolve();  // one after the other, for they are heard in the order in which they come
const tell = (what, told) => {
  last = last.then(() => fetch("/told", {method: "POST", body: JSON.stringify([what, told])}));
};
const source = new EventSource(api + "news");
source.onopen = () => tell("open", null);
source.addEventListener("tick", event => tell("source", [event.lastEventId, JSON.parse(event.data)]));
source.addEventListener("gap", event => tell("gap", event.data));
const socket = new WebSocket(api.replace("http", "ws") + "chat/ws");
socket.onmessage = event => tell("socket", JSON.parse(event.data));
socket.onclose = event => tell("closed", event.code);
socket.onopen = () => socket.send(JSON.stringify({data: "hello", event: "say", ref: 1}));
fetch(api + "news?event=fetched", {
  method: "POST", headers: {"Content-Type": "application/json", "Idempotency-Key": "page"}, body: "0",
}).then(async answer => tell("fetched", [answer.status, (await answer.json()).id]));
fetch(api + "news", {method: "POST", headers: {"Content-Type": "application/json"}, body: "{"})
  .then(async answer => tell("refused", [answer.status, (await answer.json()).offset]));
</script>"""


class Page:
    """A page on a server of its own, and what it has told."""

    def __init__(self, port: int, page: bytes) -> None:
        self.told: queue.Queue[tuple[str, Any]] = queue.Queue()
        told = self.told

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(page if self.path == "/" else b"")

            def do_POST(self) -> None:
                told.put(tuple(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
                self._answer(b"")

            def _answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *_: object) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{port}"

    @contextmanager
    def serving(self) -> Generator[Page]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def wait(self, *whats: str) -> dict[str, Any]:
        """What it told last of each of these, once it has told them all."""
        found: dict[str, Any] = {}
        while set(whats) - set(found):
            what, told = self.told.get(timeout=_SECONDS)
            found[what] = told
        return found


@contextmanager
def browser(url: str, profile: Path) -> Generator[None]:
    program = shutil.which("chromium")
    if program is None:
        raise RuntimeError("chromium is not installed: `make services` installs it")
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    command += [f"--user-data-dir={profile}", "--disable-background-networking", "--remote-debugging-port=0", url]
    with (profile.parent / "browser.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(_SECONDS)


def test_a_page_gets_what_it_may_and_comes_again_by_itself(tmp_path: Path) -> None:
    port, page_port = free_port(), free_port()
    (tmp_path / "sluice.toml").write_text(
        f'[live]\norigins = ["http://127.0.0.1:{page_port}"]\n[live.topics.chat]\npublish_by_websocket = true\n'
    )
    extra: dict[str, Any] = {"SLUICE_CONFIG": str(tmp_path / "sluice.toml"), "PORT": str(port)}
    assert run(tmp_path, "migrate", **extra).returncode == 0
    with Page(page_port, _PAGE.replace("PORT", str(port)).encode()).serving() as page, ExitStack() as stack:
        server = stack.enter_context(running(tmp_path, **extra))
        stack.enter_context(browser(page.url, tmp_path / "profile"))
        _look_around(page)
        told = [publish(port, "news", number, "?event=tick") for number in range(1, 4)]
        seen = [page.wait("source")["source"] for _ in told]
        assert seen == [[json.loads(one.body)["id"], number] for number, one in enumerate(told, 1)]
        server.signal(signal.SIGTERM)
        assert page.wait("closed")["closed"] == 1012
        assert server.wait() == 0
        stack.enter_context(running(tmp_path, **extra))
        ids = [json.loads(publish(port, "news", number, "?event=tick").body)["id"] for number in (4, 5)]
        assert [page.wait("source")["source"] for _ in ids] == [[ids[0], 4], [ids[1], 5]]


def _look_around(page: Page) -> None:
    """What the page does by itself."""
    found: dict[str, Any] = {}
    answers: list[Any] = []
    while len(answers) < 2 or {"open", "fetched", "refused"} - set(found):
        what, told = page.told.get(timeout=_SECONDS)
        if what == "socket":
            answers.append(told)
        found[what] = told
    assert found["refused"] == [400, 1]
    assert found["fetched"][0] == 202
    assert {"event", "published"} <= {key for answer in answers for key in answer}
