"""Row 11, through the whole job: refused with exit code 2 and one message before anything is trained, or handled.

What each reader refuses stands in tests/data, names in reports in tests/cli/test_analyze.py.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.tools.forked import Command
from tests.training.runs import small_run


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def unharmed(_: Path) -> None:
    pass


HARMS: dict[str, tuple[Callable[[Path], object], dict, str]] = {
    "a corrupt image": (lambda images: (images / "train/cat/0007.png").write_bytes(b"<html>"), {}, "cat/0007.png"),
    "a truncated image": (lambda images: cut(images / "train/dog/0003.png", 600), {}, "dog/0003.png"),
    "an empty class": (lambda images: emptied(images / "train/dog"), {}, "a class must hold an image, got none in"),
    "an empty split": (lambda images: emptied(images / "train"), {}, "must have at least two classes, got 0"),
    "other classes to test": (lambda images: shutil.copytree(images / "test/cat", images / "test/owl"), {}, "owl"),
    "a large batch": (unharmed, {"optim": {"batch_size": 65}}, "got --batch-size 65, 64 images"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_cannot_be_trained_on_ends_with_code_2_before_anything_is_trained(tmp_path, folder, harm):
    apply, overrides, message = HARMS[harm]
    apply(folder)
    job = Command.of(small_run(tmp_path, folder, **overrides)).start()
    assert job.ends_with() == 2
    assert message in job.said()
    assert job.said().count("error: ") == 1 and "Traceback" not in job.said()
    assert not list(tmp_path.rglob("step_*"))


@pytest.mark.parametrize("size", [30, 4])
def test_a_size_that_no_patch_divides_or_of_one_patch_is_trained_on(tmp_path, folder, size):
    Command.of(small_run(tmp_path, folder, data=dict(image_size=size), optim=dict(epochs=1))).finish()
