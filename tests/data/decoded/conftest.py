"""A cache of its own, and images for it."""

from pathlib import Path

import pytest

from tests.conftest import draw_folder


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VOLO_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def images(tmp_path) -> Path:
    return draw_folder(tmp_path / "images", {"train": {"a": 30, "b": 30}})
