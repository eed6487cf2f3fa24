"""Hosts with addresses, names, processes and folders of their own: `bash tests/cluster/two_hosts.sh` prints it."""

import pytest

from tests.cluster.namespaces import why_not
from tests.cluster.two_hosts import play

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.skipif(bool(reason := why_not()), reason=reason or "")
def test_two_hosts_without_a_shared_folder_lose_a_host_a_driver_and_the_server_and_reach_the_same_weights(tmp_path):
    """Commands that read the run then say the same on either host."""
    play(tmp_path)
