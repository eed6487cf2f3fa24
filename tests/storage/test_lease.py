"""One process at a time may write under a place, whatever the clocks say and whoever is killed."""

import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from tests.storage.server import DROP, during
from volo.errors import TrainingError
from volo.storage import lease as leases
from volo.storage.bucket import Bucket
from volo.storage.lease import LEASE, Lease, LeaseTaken, Owner, check, is_held, is_owned_by

HOLDER = """
import sys
from volo.storage.bucket import Bucket
from volo.storage.lease import Lease
Lease.take(Bucket(sys.argv[1]), "a run")
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def bucket(s3) -> Bucket:
    return Bucket(f"{s3.new_bucket()}/run", patience_s=20)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(leases, "RENEW_S", 0.3)
    monkeypatch.setattr(leases, "LAPSE_S", 2.0)
    monkeypatch.setattr(leases, "LOOK_S", 0.1)


def of_another_machine(bucket: Bucket) -> Owner:
    """A lease of a machine that nobody here can ask, which is not renewed."""
    owner = replace(Owner.new(), host="far", machine="far")
    assert bucket.create(LEASE, owner.to_bytes())
    return owner


def test_a_lease_that_is_renewed_is_refused_to_others_and_free_once_released(bucket, quick):
    held = Lease.take(bucket, "a run")
    assert is_held(bucket) and is_owned_by(bucket, held.token)
    with pytest.raises(LeaseTaken, match=r"process [0-9]+ on "):
        Lease.take(bucket, "a run")
    check(bucket, held.token)
    held.release()
    assert not is_held(bucket) and not bucket.names()
    Lease.take(bucket, "a run").release()


def test_a_lease_of_a_killed_process_of_this_machine_is_taken_over_without_waiting_for_it_to_lapse(bucket, monkeypatch):
    monkeypatch.setattr(leases, "LAPSE_S", 1e6)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, bucket.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"taken\n"
    assert is_held(bucket)
    holder.kill()
    holder.communicate()
    assert not is_held(bucket)
    Lease.take(bucket, "a run").release()


def test_a_lease_of_another_machine_that_is_gone_is_taken_over_when_it_has_lapsed(bucket, quick):
    other = of_another_machine(bucket)
    held = Lease.take(bucket, "a run")
    with pytest.raises(TrainingError, match=r"another process took it over: process [0-9]+ on .*; nothing was overwr"):
        check(bucket, other.token)
    held.release()


@pytest.mark.parametrize("off_s", [-600, 600])
def test_a_clock_that_is_off_changes_nothing(bucket, quick, monkeypatch, off_s):
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + off_s)
    held = Lease.take(bucket, "a run")
    with pytest.raises(LeaseTaken):
        Lease.take(bucket, "a run")
    held.release()


def test_an_owner_whose_server_was_gone_for_longer_than_a_lease_lasts_still_has_it(bucket, s3, quick):
    held = Lease.take(bucket, "a run")
    with s3.proxy.failing(during(leases.LAPSE_S + 1, DROP)):
        check(bucket, held.token)
    check(bucket, held.token)
    held.release()


def test_an_owner_that_lost_its_lease_learns_it_and_does_not_take_it_back(bucket, quick):
    held, stolen = Lease.take(bucket, "a run"), replace(Owner.new(), token="another")
    bucket.write(LEASE, stolen.to_bytes())
    renewed = threading.Event()
    renewed.wait(3 * leases.RENEW_S)
    assert Owner.read(bucket.read(LEASE)[0]) == stolen
    with pytest.raises(TrainingError, match="another process took it over"):
        check(bucket, held.token)
    held.release()
    assert LEASE in bucket.names()


def test_of_six_that_want_a_lapsed_lease_one_gets_it(bucket, quick):
    of_another_machine(bucket)
    got, lost = [], []

    def take() -> None:
        try:
            got.append(Lease.take(bucket, "a run"))
        except LeaseTaken:
            lost.append(1)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(lost)) == (1, 5)
    got[0].release()


def test_a_damaged_lease_protects_nobody(bucket):
    bucket.write(LEASE, b"[1]")
    assert not is_held(bucket)
    Lease.take(bucket, "a run").release()
