"""The objects under a URL. The only module that knows obstore, which reaches S3, Google's and Azure's storage alike.

Credentials, endpoint and region come from where obstore looks for them: the environment (AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL, AWS_REGION, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME ...) or the instance. They are
never kept, and errors are put in our own words, because the server's may quote parts of them.
"""

import contextlib
import datetime
import errno
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import from_url

from volo.errors import InputError
from volo.settings.paths import shown

PATIENCE_S = 120.0  # with a server that does not answer, while training
CHECK_S = 6.0  # and before it begins
SIGNED_S = 7200.0
PIECE = 2**24  # bytes read at once: a request has REQUEST_S
CONNECT_S, REQUEST_S, LONGEST_PAUSE_S = 3.0, 60.0, 3.0
MANY = 10_000  # retries: the time limits them
UNANSWERED = "timed out|TimedOut|kind: Timeout"
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")

# What a server's answer or obstore's error holds, and what it means to a person.
REASONS = {
    "NoSuchBucket|ContainerNotFound": "there is no such bucket; create it, or correct its name",
    "RequestTimeTooSkewed": "this machine's clock is wrong; set it",
    "PermanentRedirect|AuthorizationHeaderMalformed|301 Moved|redirect without LOCATION":
        "the bucket lies in another region; set AWS_REGION, or AWS_ENDPOINT_URL",
    r"InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|401 Unauthorized|security token|credential|"
    r"169\.254\.169\.254|metadata\.google|MissingAccount|MissingAccessKey|MissingSecretAccessKey":
        "credentials are missing, wrong or expired; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or what Google's "
        "or Azure's storage needs), or start on an instance with a role",
    "AccessDenied|403 Forbidden": "access is denied; allow this user to list, read, write and delete there",
    r"status code: (5\d\d|429|408)": "the server fails; try again later",
    "error sending request|connection|timed out": "the server does not answer; check AWS_ENDPOINT_URL and the network",
}  # fmt: skip

Answer = TypeVar("Answer")


class StorageError(OSError):
    """An object could not be read or written: `filename` is its URL, `strerror` the reason and what to do."""


@dataclass(frozen=True)
class Stat:
    """Of an object. `modified` is the time of the server's clock."""

    size: int
    modified: datetime.datetime
    etag: str


class Bucket:
    """The objects whose names begin with a URL; they are named without it.

    Every method raises StorageError if the server refuses, or does not answer for `patience_s`.

    Args:
        url: As `check_place` returns it.
    """

    def __init__(self, url: str, patience_s: float = PATIENCE_S):
        self.url, self.patience_s = url, patience_s
        self._addresses: dict[str, tuple[str, float]] = {}
        endpoint = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), "")
        config: dict[str, Any] = {"endpoint": endpoint} if endpoint and url.startswith("s3://") else {}
        request_s = min(REQUEST_S, patience_s)
        opened: Any = from_url  # which types the options of each kind of storage by itself
        with _named(url, ""):
            self._store = opened(
                url,
                config=config,
                client_options={
                    "allow_http": endpoint.startswith("http://"),
                    "connect_timeout": datetime.timedelta(seconds=CONNECT_S),
                    "timeout": datetime.timedelta(seconds=request_s),
                },
                retry_config={
                    "max_retries": MANY,
                    "retry_timeout": datetime.timedelta(seconds=patience_s),
                    "backoff": {
                        "init_backoff": datetime.timedelta(seconds=0.1),
                        "max_backoff": datetime.timedelta(seconds=LONGEST_PAUSE_S),
                        "base": 2,
                    },
                },
            )

    def read(self, name: str) -> tuple[bytes, str]:
        """An object's content, and its etag. Raises FileNotFoundError if there is none."""
        with _named(self.url, name):
            return self._repeated(lambda: _content(obstore.get(self._store, name)))

    def stat(self, name: str) -> Stat:
        """Raises FileNotFoundError if there is no such object."""
        with _named(self.url, name):
            return _stat(self._repeated(lambda: obstore.head(self._store, name)))

    def fetch(self, name: str, path: Path) -> None:
        """Copies an object into a file, a piece at a time. Raises FileNotFoundError if there is no such object."""
        size = self.stat(name).size
        with open(path, "wb") as file:
            for start in range(0, size, PIECE):
                end = min(start + PIECE, size)
                with _named(self.url, name):
                    piece = self._repeated(partial(obstore.get_range, self._store, name, start=start, end=end))
                file.write(piece)

    def write(self, name: str, content: bytes | Path) -> None:
        """Makes or replaces an object; a large file goes in parts, and appears when all have arrived."""
        with _named(self.url, name):
            self._repeated(lambda: obstore.put(self._store, name, content))
        if isinstance(content, Path) and (found := self.stat(name).size) != (size := content.stat().st_size):
            reason = f"{found:,} of {size:,} bytes have arrived; try again, or use another server"
            raise StorageError(errno.EIO, reason, f"{self.url}/{name}")

    def create(self, name: str, content: bytes) -> bool:
        """Makes an object. False if there is another one; the same content is taken for ours, whose answer was lost."""
        with _named(self.url, name):
            try:
                self._repeated(lambda: obstore.put(self._store, name, content, mode="create"))
            except (AlreadyExistsError, PreconditionError):
                return self._holds(name, content)
        return True

    def swap(self, name: str, content: bytes, etag: str) -> bool:
        """Replaces an object that still has this etag. False if it has changed, other than by a lost answer of ours."""
        with _named(self.url, name):
            try:
                self._repeated(lambda: obstore.put(self._store, name, content, mode={"e_tag": etag}))
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                return self._holds(name, content)
        return True

    def names(self, prefix: str = "") -> dict[str, Stat]:
        """All objects whose names begin with these parts, sorted by name."""
        with _named(self.url, prefix):
            pages = self._repeated(lambda: [*obstore.list(self._store, prefix or None)])
            found = {meta["path"]: _stat(meta) for page in pages for meta in page}
        return dict(sorted(found.items()))

    def delete(self, names: Iterable[str]) -> None:
        """Deletes objects, in this order; those that are not there are passed over."""
        for name in names:
            with _named(self.url, name), contextlib.suppress(FileNotFoundError):
                self._repeated(partial(obstore.delete, self._store, name))

    def copy(self, name: str, to: str) -> None:
        """Copies an object on the server."""
        with _named(self.url, name):
            self._repeated(lambda: obstore.copy(self._store, name, to))

    def address(self, name: str) -> str:
        """An address at which an object can be read for SIGNED_S, without credentials. It is kept for half of that."""
        now = time.monotonic()
        address, signed = self._addresses.get(name, ("", -SIGNED_S))
        if now - signed > SIGNED_S / 2:
            with _named(self.url, name):
                address = obstore.sign(self._store, "GET", name, datetime.timedelta(seconds=SIGNED_S))
            self._addresses[name] = address, now
        return address

    def _repeated(self, request: Callable[[], Answer]) -> Answer:
        """Makes a request again that was not answered in time, as when a network is cut. obstore itself does not repeat
        what changes something under a condition, nor deletions, which the server may have done before: ours may be
        done twice."""
        begun = time.monotonic()
        while True:
            try:
                return request()
            except (BaseError, TimeoutError) as error:
                if not re.search(UNANSWERED, str(error)) or time.monotonic() - begun > self.patience_s:
                    raise

    def _holds(self, name: str, content: bytes) -> bool:
        try:
            return self._repeated(lambda: _content(obstore.get(self._store, name)))[0] == content
        except FileNotFoundError:
            return False


def check_bucket(url: str, name: str) -> None:
    """Writes under a URL, and reads and deletes again.

    Args:
        url: As `check_place` returns it.
        name: The flag that it was given to.

    Raises:
        InputError: after at most about CHECK_S, what is wrong there and what to do.
    """
    mark, content = f".volo-check-{uuid.uuid4().hex}", uuid.uuid4().bytes
    try:
        bucket = Bucket(url, CHECK_S)
        is_new, is_kept = bucket.create(mark, content), not bucket.create(mark, b"another")
        bucket.delete([mark])
    except OSError as error:
        raise InputError(f"{name} must be a place that can be written, got {shown(url)}: {error.strerror}") from None
    if not (is_new and is_kept):
        raise InputError(
            f"{name} must be a place whose server heeds `If-None-Match: *`, without which two runs could overwrite "
            f"each other, got {shown(url)}; use another server, or a path"
        )


def _content(found: Any) -> tuple[bytes, str]:
    return bytes(found.bytes()), found.meta["e_tag"] or ""


def _stat(meta: Any) -> Stat:
    return Stat(meta["size"], meta["last_modified"], meta["e_tag"] or "")


@contextlib.contextmanager
def _named(url: str, name: str) -> Iterator[None]:
    """Turns obstore's errors into a StorageError that names the object; a missing object stays a FileNotFoundError."""
    place = f"{url}/{name}" if name else url
    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
            raise StorageError(errno.EIO, reason_of(str(error)), place) from None
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place) from None
    except (BaseError, PermissionError, ValueError, TimeoutError) as error:
        raise StorageError(errno.EIO, reason_of(str(error)), place) from None


def reason_of(text: str) -> str:
    """What an error of obstore means, without quoting it."""
    for pattern, reason in REASONS.items():
        if re.search(pattern, text, re.IGNORECASE):
            return reason
    code = re.search(r"<Code>(\w+)</Code>", text) or re.search(r"status code: (\d+)", text)
    return f"the server answers {code[1]}" if code else "the storage cannot be used like this"
