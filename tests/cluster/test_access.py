"""Who may reach a cluster: decided from the environment and the token's file, before Ray is started."""

import os
import socket

import pytest

from volo.cluster import access
from volo.cluster.access import check_dashboard_host, check_token_file, is_loopback, listens, protect_own_cluster
from volo.cluster.connect import check_access, connected
from volo.errors import InputError


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """A user without tokens, addresses or modes."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(access, "PATIENCE_S", 0.1)


def write_token(tmp_path, rights: int) -> None:
    (tmp_path / ".ray").mkdir()
    file = tmp_path / ".ray" / "auth_token"
    file.write_text("a-token-that-nobody-knows")
    file.chmod(rights)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "::ffff:127.0.0.1", "localhost"])
def test_loopback_needs_no_token(host):
    assert is_loopback(host)
    check_access(None, host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "192.168.1.7", "example.org", "127.0.0.1.example.org"])
def test_any_other_address_without_a_token_is_refused(host):
    assert not is_loopback(host)
    with pytest.raises(InputError, match=r"with none in \$RAY_AUTH_TOKEN or .*auth_token; make one"):
        check_access(None, host)


def test_another_address_is_served_to_those_who_have_the_users_token(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-token-that-nobody-knows")
    check_access(None, "0.0.0.0")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    write_token(tmp_path, 0o600)
    check_access(None, "0.0.0.0")
    protect_own_cluster("local", "0.0.0.0")
    assert "RAY_AUTH_TOKEN" not in os.environ, "another token than the user's would lie over it"


def test_another_address_is_refused_where_authentication_is_off(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-token-that-nobody-knows")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(InputError, match="with RAY_AUTH_MODE=disabled; unset RAY_AUTH_MODE"):
        check_dashboard_host("0.0.0.0")


def test_an_address_for_the_dashboard_of_a_cluster_that_is_there_is_refused(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(InputError, match="dashboard_host has no effect on a cluster that is there"):
        check_access(None, "0.0.0.0")


@pytest.mark.parametrize("rights", [0o644, 0o640, 0o604, 0o660])
def test_a_token_that_others_can_read_is_not_used(monkeypatch, tmp_path, rights):
    write_token(tmp_path, rights)
    check_access(None)  # a cluster of our own has a token of its own
    check_access("10.0.0.1:6379")  # Ray looks for no token here
    with pytest.raises(InputError, match=rf"with mode {rights:04o}; chmod 600 .*auth_token"):
        check_access("auto")
    with pytest.raises(InputError, match="a token must be for its owner alone"):
        check_access(None, "0.0.0.0")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(InputError, match="a token must be for its owner alone"):
        check_access("10.0.0.1:6379")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")  # then the file is not read
    check_access("10.0.0.1:6379")


def test_a_token_of_its_owner_is_used(monkeypatch, tmp_path):
    write_token(tmp_path, 0o600)
    check_token_file()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    check_access("10.0.0.1:6379")
    assert protect_own_cluster("local", "127.0.0.1")
    assert "RAY_AUTH_TOKEN" not in os.environ


@pytest.mark.parametrize("mode", [None, "", "token"])
def test_a_cluster_of_our_own_has_a_token_that_no_file_holds(monkeypatch, tmp_path, mode):
    """Also where Ray was told to use one and there is none: it would write it for all to read."""
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    assert not protect_own_cluster("local", "127.0.0.1")
    assert not protect_own_cluster("local", "127.0.0.1")  # again in this process: still nobody's
    assert len(os.environ.pop("RAY_AUTH_TOKEN")) == 64
    assert os.environ.get("RAY_AUTH_MODE") == (mode or None)
    assert list(tmp_path.iterdir()) == []


def test_authentication_that_was_turned_off_stays_off(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert protect_own_cluster("local", "127.0.0.1")
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_what_listens_is_told_from_what_does_not():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert listens(address)
        assert listens(f"ray://{address}")
    assert not listens(address)
    assert listens("auto")
    assert listens("local")


def test_a_cluster_that_is_not_there_is_refused_soon(monkeypatch):
    with (
        pytest.raises(InputError, match=r"must answer at the address, got '127.0.0.1:1' \(nothing listens there\)"),
        connected("127.0.0.1:1"),
    ):
        pass
