"""AWS's instance metadata service as its documentation describes it, on loopback, with all that can go wrong there."""

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Fault = Callable[[BaseHTTPRequestHandler], None]
TOKEN = "/latest/api/token"
ACTION = "/latest/meta-data/spot/instance-action"
REBALANCE = "/latest/meta-data/events/recommendations/rebalance"


@dataclass
class Metadata:
    """Answers at `url`.

    Attributes:
        pages: What there is, by path; everything else is answered with 404.
        tokens: Those that are valid.
        slow_s: Seconds by which the service's clock is behind this machine's.
        fault: Answers in place of the service, on the paths in `faulty`.
        asked: Method and path of every request.
        ended: Set when a server that hangs may end.
    """

    url: str
    pages: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    slow_s: float = 0.0
    fault: Fault | None = None
    faulty: set[str] = field(default_factory=lambda: {TOKEN, ACTION, REBALANCE})
    asked: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def now(self) -> float:
        return time.time() - self.slow_s

    def announce(self, action: str, in_s: float) -> None:
        """A notice, with a whole second as its time, as AWS gives it."""
        at = datetime.fromtimestamp(self.now(), UTC) + timedelta(seconds=in_s)
        self.pages[ACTION] = json.dumps({"action": action, "time": f"{at:%Y-%m-%dT%H:%M:%SZ}"}).encode()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append(f"{handler.command} {handler.path}")
        if self.fault is not None and handler.path in self.faulty:
            self.fault(handler)
        elif handler.command == "PUT":
            self._give_token(handler)
        elif handler.headers["X-aws-ec2-metadata-token"] not in self.tokens:
            respond(handler, 401)
        elif (page := self.pages.get(handler.path)) is None:
            respond(handler, 404)
        else:
            respond(handler, 200, page)

    def _give_token(self, handler: BaseHTTPRequestHandler) -> None:
        life = handler.headers["X-aws-ec2-metadata-token-ttl-seconds"] or ""
        if handler.path != TOKEN or not (life.isdigit() and 1 <= int(life) <= 21600):
            respond(handler, 400)
            return
        self.tokens.add(token := secrets.token_urlsafe(42))
        respond(handler, 200, token.encode())


def respond(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", length: int | None = None) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)


@contextlib.contextmanager
def metadata_service() -> Iterator[Metadata]:
    """A server on loopback, as long as the context."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            service.answer(self)

        do_PUT = do_GET

        def date_time_string(self, timestamp=None):
            return super().date_time_string(service.now() if timestamp is None else timestamp)

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service = Metadata(f"http://127.0.0.1:{httpd.server_address[1]}")
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.ended.set()
        httpd.shutdown()
        httpd.server_close()
        thread.join()
