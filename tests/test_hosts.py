"""Which hosts belong to this machine alone."""

import pytest

from volo.hosts import is_loopback


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "::ffff:127.0.0.1", "[::ffff:7f00:1]", "localhost"],
)
def test_loopback_is_known_in_every_spelling(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["", "0.0.0.0", "::", "10.0.0.1", "192.168.1.7", "::ffff:10.0.0.1", "[fe80::1]", "[::1", "::1]", "example.org",
     "localhost.example.org", "127.0.0.1.example.org"],
)  # fmt: skip
def test_any_other_address_or_name_is_not_loopback(host):
    assert not is_loopback(host)
