from pathlib import Path

import pytest

from tests.outcomes.digits import write_digits


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"))
