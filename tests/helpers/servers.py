"""Web servers that behave, and some that do not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Servers that wait stop when this is set.
_released = threading.Event()


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and logs nothing."""

    def log_message(self, *arguments: object) -> None:
        pass


class Cut(BaseHTTPRequestHandler):
    """Promises more than it sends."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"short")

    log_message = Quiet.log_message


class Rude(BaseHTTPRequestHandler):
    """Does not speak HTTP."""

    def do_GET(self) -> None:
        self.wfile.write(b"\0\1\2 go away\r\n\r\n")

    log_message = Quiet.log_message


class Dripping(BaseHTTPRequestHandler):
    """Sends a byte now and then, for as long as somebody listens."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            while not _released.wait(0.05):
                self.wfile.write(b"x")
        except OSError:
            pass

    log_message = Quiet.log_message


class Stalled(BaseHTTPRequestHandler):
    """Says nothing until it is told to stop."""

    def do_GET(self) -> None:
        _released.wait(20)

    do_HEAD = do_GET
    log_message = Quiet.log_message


@contextmanager
def serve(handler: Callable[..., Any]) -> Iterator[str]:
    """Yields the address of a server on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        _released.set()
        server.shutdown()
        thread.join()
        server.server_close()
        _released.clear()
