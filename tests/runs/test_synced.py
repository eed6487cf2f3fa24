"""What gets its final name is on the disk by then, and its name soon after: whatever else a power cut would cost."""

import ast
import os
from pathlib import Path

import pytest
import torch

import volo
from tests.conftest import draw_folder
from tests.models import save_model
from tests.training.runs import small_run, train
from tests.tuning.sweeps import opened, play
from volo.data.decoded.cache import cached
from volo.data.folders.imagefolder import ImageFolder
from volo.files import commit, replace_synced, replaced, staging
from volo.runs import checkpoint
from volo.runs.folder import open_run
from volo.runs.places import CONFIG, ENVIRONMENT, JOURNAL, TABLE
from volo.runs.records import FILE, rewind_records
from volo.tuning.confirm import FAILURES, FOLDER, Confirmation
from volo.tuning.report.confirmation import FILE as CONFIRMED
from volo.tuning.results import BEST_CONFIG, write_results
from volo.tuning.winner import take_over, winner_settings

ROOT = Path(volo.__file__).parent
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
    assert disk.synced == [images, images.with_name("index.bin")]  # a row counts once its key is there


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


def test_what_a_run_begins_with_and_its_rewound_records(tmp_path, folder, monkeypatch):
    disk, settings = Disk(monkeypatch), small_run(tmp_path, folder)
    run_dir = settings.run_dir
    open_run(settings)[1].release()
    (run_dir / FILE).write_bytes(b'{"kind": "step", "step": 1}\n[1]\n{"kind": "step", "step": 2}\n')
    with pytest.warns(UserWarning, match="removed 1 damaged lines"):
        rewind_records(run_dir, 1)
    disk.assert_kept(run_dir / CONFIG, run_dir / ENVIRONMENT, run_dir / FILE, run_dir / f"{FILE}.damaged")


def test_the_records_up_to_a_checkpoint_before_it(tmp_path, folder, monkeypatch):
    disk = Disk(monkeypatch)
    run_dir = train(small_run(tmp_path, folder, optim=dict(max_steps=5)))
    assert (run_dir / "last").exists()
    order = [path.name for path in disk.synced if path.name in (FILE, checkpoint.MANIFEST)]
    assert order == [FILE, checkpoint.MANIFEST] * 2


def test_what_a_sweep_writes(tmp_path, monkeypatch):
    study = play(opened(tmp_path, num_samples=3, pruner="none", confirm_top=1))
    lines = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(lines + b'{"op_code"')
    disk = Disk(monkeypatch)
    study = opened(tmp_path, num_samples=3, pruner="none", confirm_top=1)
    write_results(study)
    Confirmation(study).fail(0, "lost")
    Confirmation(study).write()
    winner = winner_settings(study)
    take_over(study, winner)
    written = (JOURNAL, TABLE, BEST_CONFIG, CONFIRMED, f"{FOLDER}/{FAILURES}")
    disk.assert_kept(*(tmp_path / name for name in written), winner.run_dir)
    assert (tmp_path / JOURNAL).read_bytes() == lines


WRITES = {"write_text", "write_bytes", "rename", "replace", "move", "savez", "dump"}
IN_PLACE = {  # and why that is enough
    ("runs/checkpoint.py", "rename"),  # of a synced folder, whose parent is synced afterwards
    ("runs/folder.py", "rename"),  # of a whole run, which is set aside
    ("tuning/report/page.py", "rename"),  # of a whole page and its figures, made aside
    ("tuning/home.py", "rename"),  # of a synced folder
    ("tuning/home.py", "write_text"),  # into that folder
}


def test_nothing_else_of_a_run_or_a_sweep_is_written_or_renamed_in_place():
    """But for what is appended: records, the journal. Files have one way to be replaced, volo/files.py."""
    found = set()
    for room in ("runs", "training", "tuning", "plots"):
        for source in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(source.read_text())):
                name = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
                of_a_string = name == "replace" and len(node.args) > 1
                if name in WRITES and not of_a_string:
                    found.add((str(source.relative_to(ROOT)), name))
    assert found == IN_PLACE
