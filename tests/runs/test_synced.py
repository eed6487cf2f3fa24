"""What gets its final name is on the disk by then, and its name soon after: whatever else a power cut would cost."""

import os
from pathlib import Path

import pytest
import torch

from tests.conftest import draw_folder
from tests.models import save_model
from volo.data.decoded.cache import cached
from volo.data.folders.imagefolder import ImageFolder
from volo.files import commit, replace_synced, replaced, staging
from volo.runs import checkpoint

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads from /proc which file is synced")


class Disk:
    """Notes what is synced, what had not been when it was renamed, and names that were not synced afterwards."""

    def __init__(self, monkeypatch):
        self.renamed: list[Path] = []
        self.synced: list[Path] = []
        self.too_late: list[Path] = []
        self._synced: set[Path] = set()
        self._pending: set[Path] = set()
        self._fsync, self._rename = os.fsync, os.rename
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(os, "rename", self.rename)

    def fsync(self, handle: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        self._fsync(handle)
        self._synced.add(path)
        self.synced.append(path)
        self._pending.discard(path)

    def rename(self, source, target) -> None:
        source = Path(source)
        too_late = [path for path in (source, *source.rglob("*")) if path not in self._synced]
        self._rename(source, target)
        self.too_late += too_late
        self.renamed.append(Path(target))
        self._pending.add(Path(target).parent)

    def assert_kept(self, *names: Path) -> None:
        assert {*names} <= {*self.renamed}
        assert not self.too_late and not self._pending


def test_a_committed_folder(tmp_path, monkeypatch):
    disk, target = Disk(monkeypatch), tmp_path / "entry"
    with staging(target) as folder:
        for name in ("one", "two"):
            (folder / name).write_text(name)
        commit(folder, target)
    disk.assert_kept(target)


def test_decoded_images(tmp_path, monkeypatch):
    source = ImageFolder(draw_folder(tmp_path / "images", {"train": {"a": 2, "b": 2}}), "train", 8)
    disk = Disk(monkeypatch)
    images = Path(cached(source).images.filename)
    assert disk.synced == [images, images.with_name("keys.bin")]  # a row counts once its key is there


def test_a_checkpoint_and_what_points_at_it(tmp_path, monkeypatch):
    disk = Disk(monkeypatch)
    folder = save_model(tmp_path / "run", ("cat", "dog"))
    checkpoint.point(tmp_path / "run", "best", folder)
    disk.assert_kept(folder, tmp_path / "run" / "last", tmp_path / "run" / "best")


def test_an_exported_model_and_replaced_files(tmp_path, monkeypatch):
    folder = save_model(tmp_path / "run", ("cat", "dog"))
    disk = Disk(monkeypatch)
    replace_synced(tmp_path / "file", b"content")
    with replaced(tmp_path / "table") as partial:
        partial.write_text("content")
    checkpoint.export_pt(folder, tmp_path / "model.pt")
    disk.assert_kept(tmp_path / "file", tmp_path / "table", tmp_path / "model.pt")
    assert torch.load(tmp_path / "model.pt", weights_only=True)["class_names"] == ["cat", "dog"]
