"""A proxy before an object store: slow, overloaded, failing, dropping connections, by chance or on cue."""

from __future__ import annotations

import http.client
import itertools
import random
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

from tests.loopback import Loopback, QuietHandler

BUSY = (503, "SlowDown", "Please reduce your request rate.")
FAULTY = (500, "InternalError", "We encountered an internal error. Please try again.")
FORBIDDEN = (403, "AccessDenied", "Access Denied")
KINDS = ("slow", "busy", "faulty", "cut before", "cut after", "half an answer")


class FlakyStore(Loopback):
    """`with FlakyStore(upstream) as store:` forwards requests to `store.url`, each with a fault by chance.

    `share` is the part of the requests that meet a fault of KINDS; `always` is a fault for all of them.
    """

    def __init__(self, upstream: str, share: float = 0.0, seed: int = 0) -> None:
        self.upstream, self.share, self.always = urlsplit(upstream), share, ""
        self.after = 0  # so many requests pass before `always` begins
        self.met: Counter[str] = Counter()
        self.draw, self.kinds, self.lock = random.Random(seed), itertools.cycle(KINDS), threading.Lock()
        self.in_a_row: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return self.origin

    def fault(self, request: str) -> str:
        """What happens to the next request; empty when nothing does.

        By chance no request fails more than three times in a row: who is patient gets through for certain.
        """
        with self.lock:
            self.after -= 1
            unlucky = self.draw.random() < self.share and self.in_a_row[request] < 3
            self.in_a_row[request] = self.in_a_row[request] + 1 if unlucky else 0
            kind = next(self.kinds) if unlucky else ""
            kind = self.always if self.always and self.after < 0 else kind
            self.met[kind] += 1
            return kind

    def handler(self) -> type[_Handler]:
        return type("Handler", (_Handler,), {"store": self})


class _Handler(QuietHandler):
    store: FlakyStore

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = self.store.fault(f"{self.command} {self.path}")
        if kind == "slow":
            time.sleep(0.3)
        if answer := {"busy": BUSY, "faulty": FAULTY, "forbidden": FORBIDDEN}.get(kind):
            return self.refuse(*answer)
        if kind == "cut before":
            return self.cut()
        status, headers, data = self.forward(body)
        if kind == "cut after":
            return self.cut()
        half = kind == "half an answer" and len(data) > 1
        self.reply(status, headers, data[: len(data) // 2] if half else data, len(data))
        if half:
            self.cut()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

    def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.store.upstream.netloc, timeout=60)
        try:
            connection.request(self.command, self.path, body, dict(self.headers))
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def refuse(self, status: int, code: str, message: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        self.reply(status, [("Content-Type", "application/xml")], body, len(body))

    def reply(self, status: int, headers: list[tuple[str, str]], data: bytes, length: int) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "date", "server"):
                self.send_header(name, value)
        said = {name.lower(): value for name, value in headers}.get("content-length", str(length))
        self.send_header("Content-Length", said if self.command == "HEAD" else str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def cut(self) -> None:
        self.wfile.flush()
        self.close_connection = True
