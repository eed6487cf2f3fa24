"""Who may reach a cluster: decided from the environment and the token's file, before Ray is started."""

import os
import socket
import socketserver
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest
import ray
from packaging.version import Version

from volo.cluster import access
from volo.cluster.access import check_answer, check_dashboard_host, check_form, check_token_file, protect_own_cluster
from volo.cluster.connect import check_access, check_stays_here, connected, prepare
from volo.errors import InputError


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """A user without tokens, addresses or modes."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        del os.environ[name]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(access, "PATIENCE_S", 0.1)


def write_token(tmp_path, rights: int) -> None:
    (tmp_path / ".ray").mkdir()
    file = tmp_path / ".ray" / "auth_token"
    file.write_text("a-token-that-nobody-knows")
    file.chmod(rights)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "::ffff:127.0.0.1", "localhost"])
def test_loopback_needs_no_token(host):
    check_access(None, host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "192.168.1.7", "example.org", "127.0.0.1.example.org"])
def test_any_other_address_without_a_token_is_refused(host):
    with pytest.raises(InputError, match=r"with none in \$RAY_AUTH_TOKEN or .*auth_token; make one"):
        check_access(None, host)


def test_another_address_is_served_to_those_who_have_the_users_token(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-token-that-nobody-knows")
    check_access(None, "0.0.0.0")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    write_token(tmp_path, 0o600)
    check_access(None, "0.0.0.0")
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    protect_own_cluster("local", "0.0.0.0")
    assert "RAY_AUTH_TOKEN" not in os.environ, "another token than the user's would lie over it"


def test_another_address_is_refused_where_authentication_is_off(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-token-that-nobody-knows")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(InputError, match="with RAY_AUTH_MODE=disabled; unset RAY_AUTH_MODE"):
        check_dashboard_host("0.0.0.0")


def test_an_address_for_the_dashboard_of_an_existing_cluster_is_refused(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(InputError, match="dashboard_host has no effect on an existing cluster"):
        check_access(None, "0.0.0.0")


@pytest.mark.parametrize("rights", [0o644, 0o640, 0o604, 0o660])
def test_a_token_that_others_can_read_is_not_used(monkeypatch, tmp_path, rights):
    write_token(tmp_path, rights)
    check_access(None)  # a cluster of our own has a token of its own
    check_access("10.0.0.1:6379")  # Ray looks for no token here
    with pytest.raises(InputError, match=rf"with mode {rights:04o}; chmod 600 .*auth_token"):
        check_access("auto")
    with pytest.raises(InputError, match="only its owner may read a token"):
        check_access(None, "0.0.0.0")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(InputError, match="only its owner may read a token"):
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
@pytest.mark.parametrize("is_imported", [True, False])
def test_a_cluster_of_our_own_has_a_token_that_no_file_holds(monkeypatch, tmp_path, mode, is_imported):
    """Also if Ray was told to use a token and none exists: Ray would write one for all to read."""
    if is_imported:
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.setattr(access, "ASKS_BY_DEFAULT", Version(ray.__version__))  # then Ray turns it on
    else:
        monkeypatch.delitem(sys.modules, "ray", raising=False)
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    assert not protect_own_cluster("local", "127.0.0.1")
    assert not protect_own_cluster("local", "127.0.0.1")  # again in this process: still nobody's
    assert len(os.environ.pop("RAY_AUTH_TOKEN")) == 64
    assert os.environ.get("RAY_AUTH_MODE") == (mode or (None if is_imported else "token"))
    assert list(tmp_path.iterdir()) == []


def test_an_older_ray_that_was_imported_before_it_was_told_to_ask_for_a_token_is_refused(monkeypatch):
    """It would start a cluster that asks for none."""
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(access, "ASKS_BY_DEFAULT", Version("1000"))
    with pytest.raises(InputError, match=f"got Ray {ray.__version__}, imported without it; set RAY_AUTH_MODE=token"):
        protect_own_cluster("local", "127.0.0.1")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert not protect_own_cluster("local", "127.0.0.1")


def test_a_cluster_of_our_own_that_others_could_reach_is_refused():
    check_stays_here("127.0.0.1")
    with pytest.raises(InputError, match=r"got the address 10\.0\.0\.1, since Ray was imported before volo\.cluster"):
        check_stays_here("10.0.0.1")


def test_preparing_tells_ray_what_it_reads_when_it_is_imported_and_checks_access_first(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    with pytest.raises(InputError, match="must ask for a token"):
        prepare(None, "0.0.0.0")
    assert "RAY_AUTH_MODE" not in os.environ
    prepare(None)
    prepare(None)  # as the command and then the connection do
    assert (os.environ["RAY_AUTH_MODE"], len(os.environ["RAY_AUTH_TOKEN"])) == ("token", 64)
    assert os.environ["RAY_TRAIN_V2_ENABLED"] == "1"


def test_preparing_to_join_a_cluster_leaves_its_token_to_the_user(monkeypatch):
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    prepare("10.0.0.1:6379")
    assert not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} & os.environ.keys()


def test_authentication_that_was_turned_off_stays_off(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert protect_own_cluster("local", "127.0.0.1")
    assert "RAY_AUTH_TOKEN" not in os.environ


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:8265", r"--address must be a cluster's HOST:PORT, got .*; use the port .* 127.0.0.1:6379"),
        ("https://head", "HOST:PORT, got https://head, where `ray job submit` sends jobs"),
        ("10.0.0.1", "must be HOST:PORT, auto or local, got '10.0.0.1'; use 10.0.0.1:6379, say"),
        ("10.0.0.1:head", "must be HOST:PORT"),
        (":6379", "must be HOST:PORT"),
    ],
)
def test_an_address_of_another_form_is_refused_before_ray_is_asked(address, message):
    with pytest.raises(InputError, match=message):
        prepare(address)


@pytest.mark.parametrize(
    "address", ["auto", "local", "10.0.0.1:6379", "head:6379", "[::1]:6379", "ray://10.0.0.1:10001"]
)
def test_an_address_of_a_cluster_is_none_of_those(address):
    check_form(address, "--address")


class Web(BaseHTTPRequestHandler):
    """Like Ray's dashboard."""

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("server", [HTTPServer, socketserver.TCPServer])
def test_what_listens_and_is_not_ray_is_refused_with_the_port_to_use(server):
    """A web server, as the dashboard is, and one that hangs up without a word."""
    with server(("127.0.0.1", 0), Web if server is HTTPServer else socketserver.BaseRequestHandler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        host, port = serving.server_address
        message = r"what listens there is not Ray's head, whose port is 6379"
        with pytest.raises(InputError, match=message), connected(f"{host}:{port}"):
            pass
        serving.shutdown()


def test_what_listens_and_never_answers_is_not_ray(monkeypatch):
    monkeypatch.setattr(access, "GREETING_S", 0.1)
    message = "what listens there is not Ray's head"
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(ConnectionError, match=message):
        check_answer(f"127.0.0.1:{server.getsockname()[1]}")
    check_answer("auto")
    check_answer("local")


def test_a_server_of_grpc_is_told_from_others():
    """It greets like Ray's head, before any client has said more than that it speaks HTTP/2."""
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        check_answer(f"127.0.0.1:{port}")
        check_answer(f"ray://127.0.0.1:{port}")
    finally:
        server.stop(None)


def test_a_cluster_that_is_not_there_is_refused_soon(monkeypatch):
    with (
        pytest.raises(InputError, match=r"must answer at the address, got '127.0.0.1:1' \(nothing listens there\)"),
        connected("127.0.0.1:1"),
    ):
        pass
