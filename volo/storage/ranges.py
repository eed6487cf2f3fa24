"""Parts of objects by plain HTTPS, at addresses that were signed for it.

For processes that are forked to read images: what obstore works with does not survive a fork.
"""

import http.client
import os
import ssl
import threading
import time
from urllib.parse import urlsplit

TIMEOUT_S, PATIENCE_S, LONGEST_PAUSE_S = 30.0, 120.0, 3.0
PASSING = {408, 429, 500, 502, 503, 504}  # answers after which another try may help

_open = threading.local()


def read_range(address: str, offset: int, length: int) -> bytes:
    """The bytes of an object from `offset` on.

    Raises:
        OSError: they cannot be had, also after PATIENCE_S.
    """
    started, pause = time.monotonic(), 0.1
    while True:
        try:
            status, content = _asked(address, offset, length)
            reason = f"the server answers {status}" if status != 206 else f"{len(content):,} of {length:,} bytes came"
            if status == 206 and len(content) == length:
                return content
            if status not in PASSING | {206}:
                raise PermissionError(f"{urlsplit(address).path} cannot be read: {reason}")
        except PermissionError:
            raise
        except (OSError, http.client.HTTPException) as error:
            _forget(address)
            reason = str(error) or type(error).__name__
        if time.monotonic() - started > PATIENCE_S:
            raise OSError(f"{urlsplit(address).path} cannot be read: {reason}")
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def _asked(address: str, offset: int, length: int) -> tuple[int, bytes]:
    parts = urlsplit(address)
    connection = _connection(parts.scheme, parts.netloc)
    connection.request("GET", f"{parts.path}?{parts.query}", headers={"Range": f"bytes={offset}-{offset + length - 1}"})
    answer = connection.getresponse()
    return answer.status, answer.read()


def _connection(scheme: str, place: str) -> http.client.HTTPConnection:
    """One for each server and thread, which stays open. Those of the process that forked this one are left to it."""
    if _open.__dict__.get("process") != os.getpid():
        _open.process, _open.known = os.getpid(), {}
    known: dict[tuple[str, str], http.client.HTTPConnection] = _open.known
    if (scheme, place) not in known:
        if scheme == "https":
            context = ssl.create_default_context()
            known[scheme, place] = http.client.HTTPSConnection(place, timeout=TIMEOUT_S, context=context)
        else:
            known[scheme, place] = http.client.HTTPConnection(place, timeout=TIMEOUT_S)
    return known[scheme, place]


def _forget(address: str) -> None:
    parts = urlsplit(address)
    if connection := _open.__dict__.get("known", {}).pop((parts.scheme, parts.netloc), None):
        connection.close()
