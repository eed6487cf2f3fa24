"""Test images that are copies of images trained on are found, and others are not."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tests.conftest import draw_folder
from tests.training.runs import small_run, train
from volo.analysis.duplicates import in_words, near_duplicates
from volo.analysis.subject import open_view
from volo.cli import analyze
from volo.cli.outcome import exit_code
from volo.runs import checkpoint


def blotches(seed: int) -> Image.Image:
    """A picture of soft blotches, as photographs have them: cells of 5 x 5 colours, enlarged."""
    colours = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((120, 90), Image.Resampling.BICUBIC)


COPIES = {
    "the same": lambda image: image,
    "smaller": lambda image: image.resize((60, 45)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.04),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, set[str]]:
    """A run, and the names of the test images that are copies."""
    root = tmp_path_factory.mktemp("duplicates")
    copies = set()
    for number in range(60):
        split, name = ("test" if number >= 40 else "train"), ("cat", "dog")[number % 2]
        (root / "images" / split / name).mkdir(parents=True, exist_ok=True)
        blotches(number).save(root / "images" / split / name / f"{number:02}.jpg", quality=95)
    for number, (kind, change) in enumerate(COPIES.items()):
        file = root / "images" / "test" / ("cat", "dog")[number % 2] / f"{kind}.jpg"
        change(blotches(number)).save(file, quality=60)
        copies.add(str(file))
    run = train(small_run(root, root / "images", optim=dict(epochs=1, batch_size=8)))
    return run, copies


def opened(run: Path):
    _, description = checkpoint.load_model(checkpoint.find(run))
    return open_view(description, "test", None, run), description.settings.resolved().data


def test_copies_are_found_and_others_are_not(trained):
    run, copies = trained
    view, data = opened(run)
    found = near_duplicates(view, data)
    assert {*found.tested} == copies
    pairs = dict(zip(found.tested, found.trained, strict=True))
    for number, kind in enumerate(COPIES):
        (other,) = [trained for tested, trained in pairs.items() if Path(tested).stem == kind]
        assert Path(other).stem == f"{number:02}"


def test_the_report_says_so_and_lists_them(trained, tmp_path, capsys):
    run, copies = trained
    flags = ["--checkpoint", str(run), "--output-dir", str(tmp_path / "a"), "--analysis", "eval", "predictions"]
    assert exit_code(analyze.main, [*flags, "--num-workers", "0", "--no-show"]) == 0
    page = (tmp_path / "a" / "report.html").read_text()
    assert "3 of these 23 images are nearly the same as images trained on" in page
    listed = (tmp_path / "a" / "near_duplicates.csv").read_text()
    assert all(name in listed for name in copies)


def test_without_the_images_trained_on_the_report_says_that_they_were_not_compared(trained, tmp_path):
    run, _ = trained
    view, data = opened(run)
    assert near_duplicates(view, data.model_copy(update=dict(data_dir=str(tmp_path)))) is None
    shutil.copytree(Path(data.data_dir) / "test", tmp_path / "moved" / "test")
    flags = ["--checkpoint", str(run), "--output-dir", str(tmp_path / "a"), "--analysis", "predictions"]
    Path(data.data_dir, "train").rename(tmp_path / "train")
    try:
        moved = ["--data-dir", str(tmp_path / "moved")]
        assert exit_code(analyze.main, [*flags, *moved, "--num-workers", "0", "--no-show"]) == 0
    finally:
        (tmp_path / "train").rename(Path(data.data_dir, "train"))
    assert "Not compared with the images trained on" in (tmp_path / "a" / "report.html").read_text()


def test_flat_images_are_not_taken_for_each_other(tmp_path):
    images = draw_folder(tmp_path / "images", {"train": {"cat": 10, "dog": 10}, "test": {"cat": 4, "dog": 4}})
    for number, file in enumerate(sorted(images.rglob("*.png"))):
        Image.new("RGB", (32, 32), (number * 7, 90, 90)).save(file)
    run = train(small_run(tmp_path, images, optim=dict(epochs=1, batch_size=8)))
    view, data = opened(run)
    assert not len(near_duplicates(view, data).places)


def test_accuracy_is_told_without_them(trained):
    run, _ = trained
    view, data = opened(run)
    found = near_duplicates(view, data)
    correct = np.ones(len(view.index), bool)
    correct[np.delete(np.arange(len(correct)), found.places)[:5]] = False
    assert "Without them, top-1 is 75.00%." in in_words(found, correct)
    everything = replace(found, places=np.arange(len(correct)))
    assert "Without them" not in in_words(everything, correct)
