"""A local S3 server, and a proxy before it that fails as servers and networks do. Both are real and on loopback.

    python -m tests.storage.server 10.77.0.3

serves at that address instead until its input ends. It prints the endpoint and the place of a bucket, and after that
each request that has changed something there.
"""

import contextlib
import http.client
import itertools
import logging
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from moto.server import ThreadedMotoServer

KEYS = {"AWS_ACCESS_KEY_ID": "a-key", "AWS_SECRET_ACCESS_KEY": "a-secret", "AWS_REGION": "us-east-1"}
HANGS_S = 20.0
LOOPBACK = "127.0.0.1"
_numbers = itertools.count()


@dataclass
class S3:
    """A server: at `endpoint`, directly; at `env`'s, through the proxy."""

    endpoint: str
    proxy: "Proxy"

    @property
    def env(self) -> dict[str, str]:
        """By which processes find the server."""
        return KEYS | {"AWS_ENDPOINT_URL": self.proxy.endpoint}

    def new_bucket(self) -> str:
        """The place of a bucket that holds nothing."""
        name = f"runs-{next(_numbers)}"
        urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")).close()
        return f"s3://{name}"


@dataclass
class Asking:
    """A request that has arrived at the proxy. `body` is its beginning, of `length` bytes."""

    method: str
    path: str
    length: int


# What a fault does with a request: pass it on, answer it with a status, or an action below.
PASS, DROP, DROP_AFTER_SOME, LOSE_ANSWER, HANG = "pass", "drop", "drop after some", "lose the answer", "hang"
Fault = Callable[[Asking], "str | int"]


@dataclass
class Proxy:
    """Passes requests on, except for what `fault` says."""

    endpoint: str = ""
    fault: Fault = lambda asking: PASS
    seen: list[Asking] = field(default_factory=list)
    answered: Callable[[Asking, int], object] = lambda asking, status: None
    num_hanging: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def failing(self, fault: Fault) -> Iterator[None]:
        self.fault = fault
        try:
            yield
        finally:
            self.fault = lambda asking: PASS


def first(count: int, what: str | int, method: str = "", path: str = "") -> Fault:
    """A fault of the first requests with this method whose paths hold this."""
    left = itertools.count(count, -1)

    def fault(asking: Asking) -> str | int:
        fits = asking.method.startswith(method) and path in asking.path
        return what if fits and next(left) > 0 else PASS

    return fault


def during(seconds: float, what: str | int) -> Fault:
    """A fault of every request for a while, from the first one on."""
    until: list[float] = []

    def fault(asking: Asking) -> str | int:
        until.append(time.monotonic() + seconds)
        return what if time.monotonic() < until[0] else PASS

    return fault


@contextlib.contextmanager
def served(address: str = LOOPBACK) -> Iterator[S3]:
    """The server, behind a proxy that listens at an address of this machine."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address=LOOPBACK, port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    proxy = Proxy()
    listening = ThreadingHTTPServer((address, 0), handler_of(proxy, host, port))
    listening.daemon_threads = True
    proxy.endpoint = f"http://{address}:{listening.server_port}"
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield S3(f"http://{host}:{port}", proxy)
    finally:
        proxy.ended.set()
        listening.shutdown()
        listening.server_close()
        server.stop()


def handler_of(proxy: Proxy, host: str, port: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            asking = Asking(self.command, self.path, length)
            proxy.seen.append(asking)
            what = proxy.fault(asking)
            if what == DROP_AFTER_SOME:
                self.rfile.read(length // 2)
            if what in (DROP, DROP_AFTER_SOME):
                self.close_connection = True
                self.connection.close()
                return
            body = self.rfile.read(length)
            if what == HANG:
                proxy.num_hanging += 1
                proxy.ended.wait(HANGS_S)
                proxy.num_hanging -= 1
                self.close_connection = True
                return
            if isinstance(what, int):
                self.send_response(what)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            upstream = http.client.HTTPConnection(host, port)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            upstream.request(self.command, self.path, body, headers)
            found = upstream.getresponse()
            content = found.read()
            upstream.close()
            if what == LOSE_ANSWER:
                self.close_connection = True
                self.connection.close()
                return
            self.send_response_only(found.status)
            for name, value in found.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            size = found.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", size or "0")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
            proxy.answered(asking, found.status)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

        def log_message(self, *args) -> None:
            """Says nothing."""

    return Handler


def say_change(asking: Asking, status: int) -> None:
    if asking.method not in ("GET", "HEAD") and status < 300:
        print(f"{asking.method} {asking.path}\n", end="", flush=True)


if __name__ == "__main__":
    with served(sys.argv[1]) as s3:
        s3.proxy.answered = say_change
        print(s3.proxy.endpoint, s3.new_bucket(), flush=True)
        sys.stdin.read()
