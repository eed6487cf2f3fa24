"""Who may reach a Ray cluster: its token, the file that holds it, where the dashboard listens. Needs no Ray.

Anyone who has the token, or finds a cluster without one, can run code there, because the dashboard accepts jobs.
"""

import os
import secrets
import socket
import sys
import time
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from packaging.version import Version

from volo.errors import InputError
from volo.hosts import is_loopback

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
LOOPBACK = "127.0.0.1"
FOR_OTHERS = 0o077
HOW_TO_MAKE = "(umask 077 && ray get-auth-token --generate)"
TUNNEL = "leave it out and reach the dashboard through a tunnel, ssh -L 8265:127.0.0.1:8265 HOST"
PATIENCE_S = 5.0  # for a head that is still starting
RETRY_S = 0.2
GREETING_S = 10.0
SETTINGS = b"\x04"  # a type of frame
EMPTY_SETTINGS = bytes(3) + SETTINGS + bytes(5)  # length, type, flags, stream
WEB = ("http://", "https://")
ASKS_BY_DEFAULT = Version("2.59")  # from here on, a cluster that Ray starts asks for a token unless told otherwise

_made_tokens: set[str] = set()  # by this process, for its own clusters


def token_file() -> Path:
    """Where Ray looks for the token if $RAY_AUTH_TOKEN is not set."""
    return Path(os.path.expanduser(os.environ.get(TOKEN_PATH) or "~/.ray/auth_token"))


def mode() -> str:
    """`token` or `disabled`, as $RAY_AUTH_MODE says; empty if it is not set."""
    return os.environ.get(MODE, "").lower()


def has_token() -> bool:
    """Whether the user has a token, in the environment or in its file."""
    return bool(os.environ.get(TOKEN)) or os.path.isfile(token_file())


def check_token_file() -> None:
    """Raises InputError if others may read the token's file. A missing file is fine."""
    file = token_file()
    try:
        rights = file.stat().st_mode & 0o777
    except OSError:
        return
    if rights & FOR_OTHERS:
        raise InputError(
            f"only its owner may read a token, since anyone who has it can run code on the cluster, got {file} with "
            f"mode {rights:04o}; chmod 600 {file}, and make a new token if others may have read it"
        )


def check_dashboard_host(host: str) -> None:
    """Raises InputError if others could reach the dashboard without a token."""
    if is_loopback(host):
        return
    if mode() not in ("", "token"):
        raise InputError(
            f"a dashboard that others can reach must ask for a token, since it takes jobs, got dashboard_host={host} "
            f"with {MODE}={mode()}; unset {MODE}, or {TUNNEL}"
        )
    if not has_token():
        raise InputError(
            f"a dashboard that others can reach must ask for a token, since it takes jobs, got dashboard_host={host} "
            f"with none in ${TOKEN} or {token_file()}; make one, {HOW_TO_MAKE}, or {TUNNEL}"
        )


def reads_token_file(address: str, dashboard_host: str = LOOPBACK) -> bool:
    """Whether Ray takes the token of the cluster at this address from the file, if the file exists."""
    if os.environ.get(TOKEN) or mode() not in ("", "token"):
        return False
    return mode() == "token" or bool(os.environ.get(TOKEN_PATH)) or address == "auto" or not is_loopback(dashboard_host)


def user_can_enter(address: str, dashboard_host: str = LOOPBACK) -> bool:
    """Whether the user could use the dashboard of a cluster started here: with their own token, or because they turned
    authentication off."""
    if mode() not in ("", "token"):
        return True
    if os.environ.get(TOKEN):
        return os.environ[TOKEN] not in _made_tokens
    return reads_token_file(address, dashboard_host) and os.path.isfile(token_file())


def protect_own_cluster(address: str, dashboard_host: str) -> bool:
    """Makes our own cluster ask for a token, which its processes get through the environment: the file that Ray would
    write may be readable by others. A token or mode that the user has chosen stays.

    Returns:
        As `user_can_enter`.

    Raises:
        InputError: it is too late, because Ray has been imported and read its environment.
    """
    can_enter = user_can_enter(address, dashboard_host)
    if not mode():
        _ask_for_token()
    if not can_enter and os.environ.get(TOKEN) not in _made_tokens:
        os.environ[TOKEN] = secrets.token_hex(32)
        _made_tokens.add(os.environ[TOKEN])
    return can_enter


def _ask_for_token() -> None:
    if "ray" not in sys.modules:
        os.environ[MODE] = "token"
        return
    os.environ.pop(MODE, None)  # Ray reads an empty one as `disabled`
    if (version := Version(metadata.version("ray"))) < ASKS_BY_DEFAULT:
        raise InputError(
            f"before Ray {ASKS_BY_DEFAULT}, {MODE} must be set before Ray is imported, got Ray {version}, imported "
            f"without it; set {MODE}=token, or call volo.cluster.connect.prepare() first"
        )


def check_form(address: str, source: str) -> None:
    """Raises InputError for what cannot be a cluster's address, given by `source`."""
    if address in ("auto", "local") or ("://" in address and not address.startswith(WEB)):
        return
    host, port = _host_and_port(address)
    if address.startswith(WEB):
        raise InputError(
            f"{source} must be a cluster's HOST:PORT, got {address}, where `ray job submit` sends jobs; use the port "
            f"that `ray start --head` prints, such as {host or 'HOST'}:6379"
        )
    if not host or not port:
        raise InputError(f"{source} must be HOST:PORT, auto or local, got {address!r}; use {host or 'HOST'}:6379, say")


def check_answer(address: str) -> None:
    """Raises ConnectionError if what answers at HOST:PORT is not Ray, which would ask for a minute.

    Addresses of another kind, such as auto, pass.
    """
    host, port = _host_and_port(address)
    if not host or not port:
        return
    if not listens(host, port):
        raise ConnectionError("nothing listens there")
    if os.environ.get("RAY_USE_TLS", "0") == "0" and not speaks_grpc(host, port):
        raise ConnectionError(
            "what listens there is not Ray's head, whose port is 6379 by default; 8265 is the dashboard's"
        )


def listens(host: str, port: int) -> bool:
    """Whether the port is open within PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while (left := deadline - time.monotonic()) > 0:
        try:
            socket.create_connection((host, port), timeout=left).close()
            return True
        except OSError:
            time.sleep(min(RETRY_S, max(0.0, deadline - time.monotonic())))
    return False


def speaks_grpc(host: str, port: int) -> bool:
    """Whether a server greets by HTTP/2 (RFC 9113, section 3.4), as those of gRPC do, within GREETING_S."""
    try:
        with socket.create_connection((host, port), timeout=GREETING_S) as client, client.makefile("rb") as answer:
            client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + EMPTY_SETTINGS)
            return answer.read(len(EMPTY_SETTINGS))[3:4] == SETTINGS
    except OSError:
        return False


def _host_and_port(address: str) -> tuple[str | None, int | None]:
    """None for what an address of another kind lacks."""
    try:
        target = urlsplit(address if "//" in address else f"//{address}")
        return target.hostname, target.port
    except ValueError:
        return None, None
