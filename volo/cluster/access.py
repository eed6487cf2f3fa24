"""Who may reach a Ray cluster: its token, the file that holds it, where the dashboard listens. Needs no Ray.

Who has the token, or finds a cluster without one, runs code there: the dashboard takes jobs.
"""

import ipaddress
import os
import secrets
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

from volo.errors import InputError

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
LOOPBACK = "127.0.0.1"
FOR_OTHERS = 0o077
HOW_TO_MAKE = "(umask 077 && ray get-auth-token --generate)"
TUNNEL = "leave it out and reach the dashboard by a tunnel, ssh -L 8265:127.0.0.1:8265 HOST"
PATIENCE_S = 5.0  # for a head that is just being started
RETRY_S = 0.2

_made_tokens: set[str] = set()  # by this process, for clusters of its own


def token_file() -> Path:
    """Where Ray looks for the token where $RAY_AUTH_TOKEN does not hold it."""
    return Path(os.path.expanduser(os.environ.get(TOKEN_PATH) or "~/.ray/auth_token"))


def mode() -> str:
    """token or disabled, as $RAY_AUTH_MODE says; empty where it says nothing."""
    return os.environ.get(MODE, "").lower()


def has_token() -> bool:
    """Whether there is a token of the user's, in the environment or in its file."""
    return bool(os.environ.get(TOKEN)) or token_file().is_file()


def check_token_file() -> None:
    """Raises InputError where others may read the token's file. Where there is none, all is well."""
    file = token_file()
    try:
        rights = file.stat().st_mode & 0o777
    except OSError:
        return
    if rights & FOR_OTHERS:
        raise InputError(
            f"a token must be for its owner alone, since who reads it runs code on the cluster, got {file} with mode "
            f"{rights:04o}; chmod 600 {file}, and make a new token where others may have read it"
        )


def check_dashboard_host(host: str) -> None:
    """Raises InputError for a dashboard that others could reach without a token."""
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
    """Whether the token of the cluster at this address comes from the file, where there is one."""
    if os.environ.get(TOKEN) or mode() not in ("", "token"):
        return False
    return mode() == "token" or bool(os.environ.get(TOKEN_PATH)) or address == "auto" or not is_loopback(dashboard_host)


def user_can_enter(address: str, dashboard_host: str = LOOPBACK) -> bool:
    """Whether the user could use the dashboard of a cluster started here: with a token of theirs, or with none where
    they turned authentication off."""
    if mode() not in ("", "token"):
        return True
    if os.environ.get(TOKEN):
        return os.environ[TOKEN] not in _made_tokens
    return reads_token_file(address, dashboard_host) and token_file().is_file()


def protect_own_cluster(address: str, dashboard_host: str) -> bool:
    """A token for a cluster of our own alone, handed to its processes by the environment: no file that others could
    read, as Ray would make. A token or mode that the user has chosen stays.

    Returns:
        As `user_can_enter`.
    """
    if not mode():
        os.environ.pop(MODE, None)  # Ray takes an empty one for `disabled`
    if user_can_enter(address, dashboard_host):
        return True
    if os.environ.get(TOKEN) not in _made_tokens:
        os.environ[TOKEN] = secrets.token_hex(32)
        _made_tokens.add(os.environ[TOKEN])
    return False


def is_loopback(host: str) -> bool:
    """Of an address or a name; of names only `localhost` is known to be."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def listens(address: str) -> bool:
    """Whether a port is open at HOST:PORT within PATIENCE_S; True of an address of another kind, such as auto.

    Ray itself asks for more than a minute."""
    try:
        target = urlsplit(address if "//" in address else f"//{address}")
        host, port = target.hostname, target.port
    except ValueError:
        return True
    if not host or not port:
        return True
    deadline = time.monotonic() + PATIENCE_S
    while (left := deadline - time.monotonic()) > 0:
        try:
            socket.create_connection((host, port), timeout=left).close()
            return True
        except OSError:
            time.sleep(min(RETRY_S, max(0.0, deadline - time.monotonic())))
    return False
