"""Downloads one file in pieces: over https, or from this machine itself, and never waits forever."""

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from volo.console import Progress
from volo.hosts import is_loopback

STALL_S = 30.0  # for a response, and for each piece
LIMIT_S = 3600.0  # for the whole file
LARGEST = 2**31  # bytes
PIECE = 2**18


class Digest(Protocol):
    """One of hashlib's."""

    def update(self, content: bytes, /) -> None: ...


class DownloadError(Exception):
    """What is wrong with a URL or its content, as the rest of a sentence that begins with the URL."""


def check_url(url: str) -> None:
    """Raises DownloadError for anything other than https, or http to this machine's loopback."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme != "http" or not is_loopback(parts.hostname or ""):
        raise DownloadError("must be an https:// URL (plain http: from this machine only)")


def received(url: str) -> Iterator[tuple[bytes, int, int]]:
    """Yields the pieces of a file, each with the number of bytes before it and in total (0 if the server does not say).

    Raises:
        DownloadError: no connection, a URL that `check_url` refuses (also after a redirect), a server error, no data
            for STALL_S, not complete after LIMIT_S, fewer bytes than announced, or more than LARGEST.
    """
    check_url(url)
    deadline = time.monotonic() + LIMIT_S
    request = urllib.request.Request(url, headers={"User-Agent": "volo"})
    done = total = 0
    try:
        with _opener(url).open(request, timeout=STALL_S) as answer:
            total = answer.length or 0
            while piece := answer.read1(PIECE):
                yield piece, done, total
                done += len(piece)
                if done > LARGEST:
                    raise DownloadError(f"sends more than {LARGEST:,} bytes")
                if time.monotonic() > deadline:
                    raise DownloadError(f"has not sent the whole file after {LIMIT_S:,.0f} seconds")
    except TimeoutError:
        raise DownloadError(f"has sent nothing for {STALL_S:g} seconds") from None
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(_reason(error)) from None
    if done < total:
        raise DownloadError(f"stopped after {done:,} of {total:,} bytes")


def save(url: str, file: Path, title: str, digest: Digest) -> None:
    """Writes what the URL gives into a file, on disk when it returns, and into the digest; shows its progress.

    Raises:
        DownloadError: as `received`.
        OSError: the file cannot be written.
    """
    with open(file, "wb") as out, Progress(title, None, "MiB") as progress:
        for piece, done, total in received(url):
            if not done:
                progress.begin(0, total >> 20)
            out.write(piece)
            digest.update(piece)
            progress.update((done + len(piece)) >> 20)
        out.flush()
        os.fsync(out.fileno())


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Uses the proxy from the environment, except for this machine itself."""
    direct = [urllib.request.ProxyHandler({})] if is_loopback(urlsplit(url).hostname or "") else []
    return urllib.request.build_opener(_CheckedRedirects, *direct)


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        try:
            check_url(newurl)
        except DownloadError as error:
            raise DownloadError(f"redirects to {newurl}, which {error}") from None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"answers {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, TimeoutError):
        return f"has not answered for {STALL_S:g} seconds"
    return f"cannot be reached ({getattr(error, 'reason', None) or error or type(error).__name__})"
