"""One server for the tests that have to do with object storage."""

from collections.abc import Iterator

import pytest

from tests.storage.server import S3, served


@pytest.fixture(scope="session")
def server() -> Iterator[S3]:
    with served() as found:
        yield found


@pytest.fixture
def s3(server, monkeypatch) -> S3:
    """The server, which this process finds as well."""
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    return server
