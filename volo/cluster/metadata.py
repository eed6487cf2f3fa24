"""AWS's instance metadata service (IMDSv2), as far as it tells that a spot machine will be taken away. Needs no Ray.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
"""

import json
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from volo.errors import InputError, brief, cut, visible

ENDPOINT, ENDPOINT_VARIABLE = "http://169.254.169.254", "AWS_EC2_METADATA_SERVICE_ENDPOINT"  # as in AWS's own SDKs
TOKEN, TOKEN_LIFE, LIFE_S = "X-aws-ec2-metadata-token", "X-aws-ec2-metadata-token-ttl-seconds", 21600
TOKEN_PATH = "/latest/api/token"
ACTION_PATH = "/latest/meta-data/spot/instance-action"
REBALANCE_PATH = "/latest/meta-data/events/recommendations/rebalance"
ACTIONS = ("terminate", "stop", "hibernate")
ANSWER_S = 2.0
MAX_BYTES = 4096
OK, UNAUTHORIZED, NOT_FOUND = 200, 401, 404


class MetadataError(Exception):
    """The service does not answer, or not as it is documented. `status` is that of its answer, 0 without one."""

    def __init__(self, message: str, status: int = 0):
        super().__init__(visible(cut(message)))
        self.status = status


@dataclass(frozen=True)
class SpotNotice:
    """That AWS will take this machine away.

    Attributes:
        action: One of ACTIONS.
        left_s: Seconds until then by the service's own clock, when it answered.
        heard: When that was, as `time.monotonic` has it.
    """

    action: str
    left_s: float
    heard: float

    def remaining_s(self) -> int:
        """Whole seconds from now on, at least 1."""
        return max(1, int(self.left_s - (time.monotonic() - self.heard)))


class MetadataService:
    """Asks the service of this machine, with a token that is renewed when it has expired.

    Args:
        endpoint: Default: $AWS_EC2_METADATA_SERVICE_ENDPOINT, or AWS's own address.

    Raises:
        InputError: the endpoint is no URL.
    """

    def __init__(self, endpoint: str | None = None):
        self.endpoint = (endpoint or os.environ.get(ENDPOINT_VARIABLE) or ENDPOINT).rstrip("/")
        if not _is_url(self.endpoint):
            raise InputError(
                f"${ENDPOINT_VARIABLE} must be a URL such as {ENDPOINT}, got {brief(self.endpoint)}; correct it, or "
                "unset it"
            )
        self._token = ""
        self._opener = build_opener(ProxyHandler({}))  # the service is this machine's, whatever the proxy

    def renew(self) -> None:
        """Gets a token. Raises MetadataError."""
        status, body, _ = self._ask("PUT", TOKEN_PATH, {TOKEN_LIFE: str(LIFE_S)})
        token = body.decode("latin1").strip()
        if status != OK or not token or not (token.isascii() and token.isprintable()):
            raise MetadataError(f"{self.endpoint} gives no token (HTTP {status}, {len(body)} bytes)", status)
        self._token = token

    def notice(self) -> SpotNotice | None:
        """None while nobody wants the machine. Raises MetadataError."""
        found = self._get(ACTION_PATH)
        if found is None:
            return None
        told, now = found
        action = told.get("action")
        if action not in ACTIONS:
            raise self._unlike(ACTION_PATH, f"one of {', '.join(ACTIONS)}", told)
        return SpotNotice(action, (self._moment(ACTION_PATH, told, "time") - now).total_seconds(), time.monotonic())

    def rebalance(self) -> datetime | None:
        """When AWS began to recommend that the work be moved from this machine, which it may take away soon; None if it
        has not. Raises MetadataError."""
        found = self._get(REBALANCE_PATH)
        return None if found is None else self._moment(REBALANCE_PATH, found[0], "noticeTime")

    def _get(self, path: str) -> tuple[dict[str, Any], datetime] | None:
        """What is told, and the service's time then; None where nothing is."""
        for _ in range(2):  # the second time with a new token
            if not self._token:
                self.renew()
            status, body, headers = self._ask("GET", path, {TOKEN: self._token})
            if status != UNAUTHORIZED:
                break
            self._token = ""
        if status == NOT_FOUND:
            return None
        if status != OK:
            raise MetadataError(f"{self.endpoint}{path} answers HTTP {status}", status)
        try:
            told = json.loads(body)
        except (ValueError, RecursionError):
            told = body
        if not isinstance(told, dict):
            raise self._unlike(path, "a JSON object", told)
        return told, _clock(headers)

    def _moment(self, path: str, told: dict[str, Any], name: str) -> datetime:
        """A time such as 2017-09-18T08:22:00Z."""
        try:
            return _in_utc(datetime.fromisoformat(told[name]))
        except (KeyError, TypeError, ValueError):
            raise self._unlike(path, f"a time in {name}", told) from None

    def _unlike(self, path: str, documented: str, told: object) -> MetadataError:
        return MetadataError(f"{self.endpoint}{path} must tell {documented}, got {brief(told)}")

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes, Message]:
        request = Request(self.endpoint + path, method=method, headers=headers)
        try:
            with self._opener.open(request, timeout=ANSWER_S) as response:
                return response.status, response.read(MAX_BYTES), response.headers
        except HTTPError as error:
            with error:
                return error.code, b"", error.headers
        except (OSError, HTTPException) as error:
            raise MetadataError(f"{self.endpoint} does not answer ({getattr(error, 'reason', error)})") from None


def _clock(headers: Message) -> datetime:
    """The service's, by which it means its times; this machine's if it does not tell."""
    try:
        return _in_utc(parsedate_to_datetime(headers["Date"]))
    except (TypeError, ValueError):
        return datetime.now(UTC)


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _is_url(text: str) -> bool:
    try:
        return text.startswith(("http://", "https://")) and bool(urlsplit(text).hostname)
    except ValueError:
        return False
