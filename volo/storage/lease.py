"""Who may write under a URL: the owner of `lease.json`, an object that the owner renews as long as it lives.

Nobody's clock counts. Whether a lease has lapsed is told by the server's times alone, or by watching it not change. An
owner that could not renew it for a while still has it if nobody took it over meanwhile; otherwise it has lost it, which
`check` tells before anything is made valid.
"""

import contextlib
import datetime
import json
import os
import platform
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from volo.errors import TrainingError
from volo.log import LOGGER
from volo.storage.bucket import Bucket, StorageError

LEASE = "lease.json"
RENEW_S = 4.0
LAPSE_S = 30.0  # without renewal
LOOK_S = 0.5


class LeaseTaken(Exception):
    """Somebody else writes there: who, in words."""


@dataclass(frozen=True)
class Owner:
    """Of a lease. `machine` also tells containers on one host apart; `since` is the process's start, in the units of
    its machine; `count` grows with each renewal."""

    token: str
    host: str
    machine: str
    pid: int
    since: str
    count: int

    @classmethod
    def new(cls) -> "Owner":
        pid = os.getpid()
        return cls(uuid.uuid4().hex, platform.node(), machine_id(), pid, started(pid), 0)

    @classmethod
    def read(cls, content: bytes) -> "Owner | None":
        """None for a damaged lease, which protects nobody."""
        try:
            return cls(**json.loads(content))
        except (ValueError, TypeError):
            return None

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    def renewed(self) -> "Owner":
        return Owner(**{**asdict(self), "count": self.count + 1})

    def is_known_dead(self) -> bool:
        """Whether its process was on this machine and has ended."""
        return self.machine == machine_id() and bool(self.since) and started(self.pid) != self.since

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lease:
    """Held from `take` to `release`, and renewed meanwhile in a thread."""

    def __init__(self, bucket: Bucket, owner: Owner):
        self.bucket, self.token = bucket, owner.token
        self._owner = owner
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    @classmethod
    def take(cls, bucket: Bucket, what: str) -> "Lease":
        """Takes the lease; waits for one that has not been renewed to lapse.

        Args:
            what: What is to be written, for messages.

        Raises:
            LeaseTaken: it was renewed while this process watched.
            StorageError: the storage cannot be used.
        """
        owner, started_at, seen, said = Owner.new(), time.monotonic(), "", False
        while True:
            if bucket.create(LEASE, owner.to_bytes()):
                return cls(bucket, owner)
            try:
                content, etag = bucket.read(LEASE)
            except FileNotFoundError:
                continue
            other = Owner.read(content)
            if other is None or other.is_known_dead() or _has_lapsed(bucket, time.monotonic() - started_at, etag, seen):
                if bucket.swap(LEASE, owner.to_bytes(), etag):
                    return cls(bucket, owner)
                continue
            if seen and etag != seen:
                raise LeaseTaken(str(other))
            if not said and time.monotonic() - started_at > RENEW_S + 1:
                said = True
                LOGGER.warning("%s was being written by %s; waiting up to %g s for a sign of it", what, other, LAPSE_S)
            seen = etag
            time.sleep(LOOK_S)

    def release(self) -> None:
        """Gives the lease back, if it is still ours and the storage can be reached."""
        self._ended.set()
        self._thread.join()
        try:
            if is_owned_by(self.bucket, self.token):
                self.bucket.delete([LEASE])
        except OSError as error:
            LOGGER.warning("%s could not be given back (%s); it lapses by itself", error.filename, error.strerror)

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_S):
            try:
                content, etag = self.bucket.read(LEASE)
                found = Owner.read(content)
                if found is None or found.token != self.token:
                    return  # whoever writes next learns it from `check`
                self._owner = found.renewed()
                self.bucket.swap(LEASE, self._owner.to_bytes(), etag)
            except OSError:
                continue  # the lease is ours until somebody takes it over, however long the server is gone


def check(bucket: Bucket, token: str) -> None:
    """Raises TrainingError if the lease is no longer the token's: another process has begun to write there."""
    try:
        content, _ = bucket.read(LEASE)
    except FileNotFoundError:
        raise _lost(bucket, "gave it back") from None
    found = Owner.read(content)
    if found is None or found.token != token:
        raise _lost(bucket, f"took it over: {found}" if found else "damaged it")


def is_owned_by(bucket: Bucket, token: str) -> bool:
    try:
        found = Owner.read(bucket.read(LEASE)[0])
    except FileNotFoundError:
        return False
    return found is not None and found.token == token


def is_held(bucket: Bucket) -> bool:
    """Whether a process writes there now, as far as the server's clock can tell: who may only read is told yes."""
    try:
        other = Owner.read(bucket.read(LEASE)[0])
        return other is not None and not other.is_known_dead() and not _age_beyond(bucket, LAPSE_S)
    except FileNotFoundError:
        return False
    except StorageError:
        return True


def machine_id() -> str:
    """Equal for processes that can see each other's ids."""
    parts = [platform.node()]
    for path in ("/proc/sys/kernel/random/boot_id", "/etc/machine-id"):
        try:
            parts.append(Path(path).read_text().strip())
        except OSError:
            continue
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def started(pid: int) -> str:
    """When a process of this machine started; empty if there is none, or no way to know."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _has_lapsed(bucket: Bucket, watched_s: float, etag: str, seen: str) -> bool:
    """Whether nobody renews a lease: by the server's clock when it is first seen, then by watching it."""
    return _age_beyond(bucket, LAPSE_S) if not seen else etag == seen and watched_s > LAPSE_S


def _age_beyond(bucket: Bucket, limit_s: float) -> bool:
    """Whether the lease was last written more than so long ago, by the server's times alone."""
    mark = f".now-{uuid.uuid4().hex}"
    bucket.write(mark, b"")
    now = bucket.stat(mark).modified
    bucket.delete([mark])
    return now - bucket.stat(LEASE).modified > datetime.timedelta(seconds=limit_s)


def _lost(bucket: Bucket, how: str) -> TrainingError:
    return TrainingError(
        f"{bucket.url} must be written by one run at a time, but this one did not renew its lease in time and another "
        f"process {how}; nothing was overwritten; end the other one, and the same command resumes"
    )
