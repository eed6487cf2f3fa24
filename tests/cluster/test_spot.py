"""`volo spot`: what AWS says of a spot machine's end reaches Ray, whatever its metadata service does besides."""

import ast
import json
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest

from tests.cluster.metadata import ACTION, REBALANCE, TOKEN, metadata_service, respond
from tests.cluster.namespaces import network, why_not
from tests.ports import free_ports
from volo.cli import spot as command
from volo.cli.outcome import exit_code
from volo.cluster import metadata, spot
from volo.cluster.metadata import ENDPOINT_VARIABLE, MetadataError, MetadataService, SpotNotice
from volo.cluster.spot import DrainError, SpotWatch, drain, node_here

DOCUMENTED = b'{"action": "%s", "time": "2017-09-18T08:22:00Z"}'


@pytest.fixture
def aws():
    with metadata_service() as service:
        yield service


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(spot, "POLL_S", 0.01)
    monkeypatch.setattr(metadata, "ANSWER_S", 0.3)


class Watched:
    """A watch of a service, what it said, and the notices upon which it drained."""

    def __init__(self, endpoint: str, failures: int = 0):
        self.said: list[str] = []
        self.notices: list[SpotNotice] = []
        self._failures = failures
        self.watch = SpotWatch(MetadataService(endpoint), self._drain, self.said.append)

    def _drain(self, notice: SpotNotice) -> None:
        self.notices.append(notice)
        if len(self.notices) <= self._failures:
            raise DrainError("Ray fails")


def at(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


@pytest.mark.parametrize("action", ["terminate", "stop", "hibernate"])
def test_a_notice_as_documented_leaves_the_time_that_the_services_own_clock_says(aws, action):
    aws.pages[ACTION] = DOCUMENTED % action.encode()
    aws.slow_s = time.time() - at("2017-09-18T08:20:00.5Z")
    notice = MetadataService(aws.url).notice()
    assert (notice.action, notice.left_s) == (action, 120)
    assert 1 <= notice.remaining_s() <= 120


def test_a_notice_whose_time_is_over_leaves_a_second(aws):
    aws.pages[ACTION] = DOCUMENTED % b"terminate"
    assert MetadataService(aws.url).notice().remaining_s() == 1


def test_without_a_notice_there_is_none_and_a_token_is_asked_for_once(aws):
    service = MetadataService(aws.url)
    assert [service.notice(), service.rebalance(), service.notice()] == [None] * 3
    assert aws.asked == [f"PUT {TOKEN}", f"GET {ACTION}", f"GET {REBALANCE}", f"GET {ACTION}"]


def test_a_token_that_has_expired_is_renewed_at_once(aws):
    aws.pages[ACTION] = DOCUMENTED % b"stop"
    service = MetadataService(aws.url)
    service.renew()
    aws.tokens.clear()
    assert service.notice().action == "stop"
    assert len(aws.tokens) == 1


def test_a_service_that_takes_no_token_is_asked_for_two_each_time(aws):
    aws.fault, aws.faulty = (lambda handler: respond(handler, 401)), {ACTION}
    with pytest.raises(MetadataError, match="HTTP 401"):
        MetadataService(aws.url).notice()
    assert aws.asked == [f"PUT {TOKEN}", f"GET {ACTION}"] * 2


def test_a_recommendation_to_move_is_said_once_and_drains_nothing(aws):
    aws.pages[REBALANCE] = b'{"noticeTime": "2020-10-27T08:22:00Z"}'
    watched = Watched(aws.url)
    assert not any(watched.watch.look() for _ in range(3))
    assert watched.said == ["AWS says since 2020-10-27 08:22 UTC that it may take this machine away"]
    assert watched.notices == []


def close(handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


FAULTS = {
    "500": lambda handler: respond(handler, 500),
    "503": lambda handler: respond(handler, 503, b"slow down"),
    "no JSON": lambda handler: respond(handler, 200, b"<html>"),
    "no text": lambda handler: respond(handler, 200, b"\xff\x00\x1b[31m"),
    "no object": lambda handler: respond(handler, 200, b"[]"),
    "deep": lambda handler: respond(handler, 200, b"[" * 4000),
    "another action": lambda handler: respond(handler, 200, DOCUMENTED % b"noop"),
    "no time": lambda handler: respond(handler, 200, b'{"action": "stop", "noticeTime": null}'),
    "a wrong time": lambda handler: respond(handler, 200, b'{"action": "stop", "time": "soon", "noticeTime": 3}'),
    "nothing": lambda handler: respond(handler, 200),
    "a cut answer": lambda handler: respond(handler, 200, b'{"act', length=100),
    "no HTTP": lambda handler: handler.wfile.write(b"\x00" * 100),
    "closed": close,
}


@pytest.mark.parametrize("path", [TOKEN, ACTION, REBALANCE])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_service_at_fault_is_said_once_and_asked_on_until_its_notice_is_heard(aws, fault, path):
    aws.fault, aws.faulty = FAULTS[fault], {path}
    watched = Watched(aws.url)
    assert not any(watched.watch.look() for _ in range(3))
    assert len(watched.said) == 1 and aws.url in watched.said[0]
    aws.announce("terminate", in_s=100)
    aws.fault = None
    assert watched.watch.look()
    assert [notice.action for notice in watched.notices] == ["terminate"]
    assert watched.said[0].isprintable()


def test_a_service_that_hangs_is_given_up_each_time_and_said_once(aws):
    aws.fault = lambda _: aws.ended.wait()
    watched = Watched(aws.url)
    assert not any(watched.watch.look() for _ in range(2))
    assert watched.said == [f"{aws.url} does not answer (timed out); asking again every 0.01 s"]
    aws.announce("stop", in_s=100)
    aws.fault = None
    assert watched.watch.look()


def test_a_service_that_is_gone_for_a_while_is_asked_on():
    [port] = free_ports(1)
    watched = Watched(f"http://127.0.0.1:{port}")
    assert not any(watched.watch.look() for _ in range(3))
    assert len(watched.said) == 1 and "refused" in watched.said[0]


def test_a_proxy_is_not_asked(aws, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_ports(1)[0]}")
    assert MetadataService(aws.url).notice() is None


def test_a_drain_that_fails_is_said_once_and_tried_again(aws):
    aws.announce("terminate", in_s=100)
    watched = Watched(aws.url, failures=3)
    watched.watch.run()
    assert len(watched.notices) == 4
    assert watched.said[1:] == ["Ray fails; asking again every 0.01 s"]
    assert watched.said[0].startswith("AWS will terminate this machine in ")


@pytest.mark.parametrize("status", [None, 403, 404, 405, 501])
def test_where_nothing_gives_a_token_as_aws_does_it_says_so_and_ends_well(aws, status, monkeypatch, capsys):
    if status is None:
        aws.url = f"http://127.0.0.1:{free_ports(1)[0]}"
    aws.fault = lambda handler: respond(handler, status)
    monkeypatch.setenv(ENDPOINT_VARIABLE, aws.url)
    assert exit_code(command.main, []) == 0
    assert capsys.readouterr().out == f"no metadata service of AWS gives a token at {aws.url}: nothing to watch\n"


def test_a_service_that_is_at_fault_from_the_start_is_one(aws):
    aws.fault = lambda handler: respond(handler, 500)
    watched = Watched(aws.url)
    assert watched.watch.has_service()
    assert len(watched.said) == 1 and "HTTP 500" in watched.said[0]


@pytest.mark.parametrize("url", ["169.254.169.254", "ftp://host", "http://", "http://[x"])
def test_an_endpoint_that_is_no_url_is_refused(url, monkeypatch, capsys):
    monkeypatch.setenv(ENDPOINT_VARIABLE, url)
    assert exit_code(command.main, []) == 2
    said = capsys.readouterr().err
    assert f"error: ${ENDPOINT_VARIABLE} must be a URL such as http://169.254.169.254, got" in said
    assert said.endswith("; correct it, or unset it\n")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--node-id", "abc"], "--node-id must have 56 hexadecimal digits, got 'abc'; leave it out"),
        (["--address", "local"], "--address must be HOST:PORT or auto, got 'local'; use 10.0.0.1:6379, say"),
        (["--address", "ray://host:10001"], "--address must be HOST:PORT or auto, got 'ray://host:10001'"),
        (["--address", "http://host:8265"], "--address must be a cluster's HOST:PORT, got http://host:8265"),
    ],
)
def test_flags_that_name_no_node_of_this_machine_are_refused(argv, said, capsys):
    assert exit_code(command.main, argv) == 2
    assert said in capsys.readouterr().err


def test_an_address_in_the_environment_is_refused_by_its_name(monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert exit_code(command.main, []) == 2
    assert "$RAY_ADDRESS must be HOST:PORT or auto" in capsys.readouterr().err


@pytest.mark.ray
def test_where_no_node_runs_it_is_refused_before_it_watches(aws, ray_env):
    [port] = free_ports(1)
    done = subprocess.run(
        [sys.executable, "-m", "volo", "spot", "--address", f"127.0.0.1:{port}"],
        env=ray_env | {ENDPOINT_VARIABLE: aws.url}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"a node of Ray must run on this machine, got none at 127.0.0.1:{port}" in done.stderr
    assert "start it first, ray start" in done.stderr


@pytest.mark.ray
def test_the_node_of_this_machine_is_the_one_that_ray_runs_here(head, monkeypatch):
    monkeypatch.setattr(os, "environ", head.env)
    listed = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False); print(ray.nodes()[0]['NodeID'])"
    told = subprocess.run(
        [sys.executable, "-c", listed, head.address], env=head.env, capture_output=True, text=True, check=True
    )
    assert node_here(head.address) == told.stdout.split()[-1]


@pytest.mark.ray
def test_a_drain_that_ray_refuses_says_what_ray_says(head, monkeypatch):
    monkeypatch.setattr(os, "environ", head.env)
    with pytest.raises(DrainError, match=r"Ray fails with 'Error: .*Invalid hex ID of a Ray node"):
        drain(head.address, "f" * 56, SpotNotice("stop", 100.0, time.monotonic()))


def test_a_date_that_the_service_does_not_tell_is_this_machines(aws):
    def dateless(handler) -> None:
        body = json.dumps({"action": "stop", "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}).encode()
        handler.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    aws.fault, aws.faulty = dateless, {ACTION}
    assert -60 < MetadataService(aws.url).notice().left_s < 1


SERVE = """
import sys
from tests.cluster.metadata import metadata_service
with metadata_service() as aws:
    print(aws.url, flush=True)
    sys.stdin.readline()
    aws.announce("terminate", in_s=100)
    sys.stdin.read()
"""
NODES = """
import ray
ray.init("auto", log_to_driver=False)
print({node["NodeManagerAddress"]: node["NodeID"] for node in ray.nodes()})
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(bool(reason := why_not()), reason=reason or "")
def test_on_a_machine_of_a_cluster_it_finds_the_cluster_and_the_machines_own_node_and_drains_that():
    with network() as lan:
        one, two = lan.host("one"), lan.host("two")
        env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}
        small = ["--num-cpus=1", f"--object-store-memory={150 * 1024**2}", "--disable-usage-stats"]
        for host, where in (
            (one, ["--head", f"--node-ip-address={one.address}"]),
            (two, [f"--address={one.address}:6379"]),
        ):
            begun = host.run(["ray", "start", *where, *small], env=env)
            assert begun.returncode == 0, begun.stdout
        found = two.run([sys.executable, "-c", NODES], env=env, stderr=subprocess.DEVNULL)
        node_id = ast.literal_eval(found.stdout.splitlines()[-1])[two.address]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        server = two.popen([sys.executable, "-c", SERVE], **pipes)
        endpoint = {ENDPOINT_VARIABLE: server.stdout.readline().strip()}
        daemon = two.popen([sys.executable, "-m", "volo", "spot"], env=env | endpoint, **pipes)
        assert daemon.stdout.readline() == f"watching for the end of this machine, to drain node {node_id}\n"
        server.stdin.write("now\n")
        server.stdin.flush()
        said = daemon.communicate(timeout=120)[0]
        assert daemon.returncode == 0 and said.endswith(f"Ray drains node {node_id}\n"), said
        server.communicate(timeout=60)
