"""A collector that takes spans and forgets them: ``span_sink.py PORT``."""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


with ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Handler) as _server:
    print("ready", flush=True)
    _server.serve_forever()
