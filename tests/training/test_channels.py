"""Runs on gray images and on stacks of five channels: from the files to predictions, reports and exported models."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import volo
from tests.models import save_model
from tests.training.runs import same, small_run, train, weights
from volo.analysis.export import export_model
from volo.analysis.local import analyze_here
from volo.analysis.predict import predict_here
from volo.analysis.steps import STEPS
from volo.data.packed.packing import pack
from volo.errors import InputError
from volo.model.weights import adapted
from volo.runs import checkpoint
from volo.runs.records import read_records
from volo.settings.config import build_settings
from volo.tables import read_table

SIZE, CLASSES = 32, ("flat", "steep")
TELLING = 3  # the channel, of five, by which classes differ
FIRST = "patch_embed.stem.0.weight"


def stripes(is_steep: bool, rng: np.random.Generator) -> np.ndarray:
    """(SIZE, SIZE) uint8: horizontal or vertical stripes, anywhere, under noise."""
    wave = 60 * np.sin((np.arange(SIZE) + rng.integers(8)) * np.pi / 4)
    lines = np.tile(wave, (SIZE, 1))
    return (128 + (lines if is_steep else lines.T) + rng.integers(-30, 30, (SIZE, SIZE))).astype(np.uint8)


def gray_file(is_steep: bool, rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(stripes(is_steep, rng))


def frames(is_steep: bool, rng: np.random.Generator) -> np.ndarray:
    """(5, SIZE, SIZE) uint8; all but one are stripes of any direction."""
    kinds = rng.integers(2, size=5)
    kinds[TELLING] = is_steep
    return np.stack([stripes(bool(kind), rng) for kind in kinds])


def draw(root: Path, suffix: str, counts: dict[str, int]) -> Path:
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for is_steep, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                file = root / split / name / f"{number:03}{suffix}"
                if suffix == ".png":
                    gray_file(bool(is_steep), rng).save(file)
                else:
                    write_stack(file, frames(bool(is_steep), rng))
    return root


def write_stack(file: Path, planes: np.ndarray) -> None:
    first, *others = map(Image.fromarray, planes)
    first.save(file, save_all=True, append_images=others)


@pytest.fixture(scope="module")
def gray(tmp_path_factory) -> Path:
    return draw(tmp_path_factory.mktemp("gray"), ".png", {"train": 100, "test": 40})


@pytest.fixture(scope="module")
def stacks(tmp_path_factory) -> Path:
    """One test image is a copy of an image trained on."""
    root = draw(tmp_path_factory.mktemp("stacks"), ".tif", {"train": 200, "test": 60})
    shutil.copy(root / "train" / "steep" / "000.tif", root / "test" / "steep" / "copy.tif")
    return root


def learning(tmp_path: Path, folder: Path, in_chans: int, epochs: int, **augment):
    """A run long enough to learn the stripes. It mirrors nothing else than stripes allow."""
    off = dict(mixup_alpha=0, cutmix_alpha=0)
    return small_run(
        tmp_path, folder, data=dict(in_chans=in_chans), augment=off | augment,
        optim=dict(epochs=epochs, batch_size=20, lr=4e-3, whiten_stem=True),
    )  # fmt: skip


@pytest.fixture(scope="module")
def gray_run(tmp_path_factory, gray) -> Path:
    return train(learning(tmp_path_factory.mktemp("outputs"), gray, 1, 4, color_jitter=0.3))


@pytest.fixture(scope="module")
def stack_run(tmp_path_factory, stacks) -> Path:
    return train(learning(tmp_path_factory.mktemp("outputs"), stacks, 5, 8))


def analyzed(run: Path, output: Path) -> tuple[dict, str]:
    """The metrics and the report."""
    report = analyze_here(checkpoint.find(run), list(STEPS), output, split="test", data_dir=None, device="cpu")
    return json.loads((output / "eval_metrics.json").read_text()), report.read_text()


def notes_of(run: Path) -> str:
    return " ".join(record["text"] for record in read_records(run) if record["kind"] == "note")


@pytest.mark.slow
def test_gray_images_are_learned_as_gray_and_shown_as_gray(gray_run, tmp_path):
    assert weights(gray_run)[FIRST].shape[1] == 1
    assert "1 channel has no colors, so saturation stays as it is (color_jitter)" in notes_of(gray_run)
    metrics, page = analyzed(gray_run, tmp_path / "a")
    assert metrics["acc1"] > 0.95
    assert "pictures show" not in page
    for name in ("predictions_grid.png", "gradcam_overlay.png", "occlusion_heatmap.png"):
        assert Image.open(tmp_path / "a" / name).size[0] > 100


@pytest.mark.slow
def test_the_one_channel_that_tells_the_class_arrives(stack_run, stacks, tmp_path):
    metrics, page = analyzed(stack_run, tmp_path / "a")
    assert metrics["acc1"] > 0.95
    shown = "Of the 5 channels, pictures show the first three, as red, green and blue."
    assert page.count(shown) >= 2  # among the notes, and below the pictures
    assert "1 of these 121 images are nearly the same as images trained on" in page
    classifier = volo.load(stack_run)
    for number in range(10):
        planes = frames(bool(number % 2), np.random.default_rng(1000 + number))
        assert classifier.predict(planes.transpose(1, 2, 0))[0][0] == CLASSES[number % 2]
        planes[TELLING] = planes[TELLING].T
        assert classifier.predict(planes.transpose(1, 2, 0))[0][0] == CLASSES[1 - number % 2]


@pytest.mark.slow
def test_predictions_and_exports_are_of_the_channels_that_were_trained_on(stack_run, stacks, tmp_path):
    file = stacks / "test" / "steep" / "000.tif"
    write_stack(tmp_path / "four.tif", frames(True, np.random.default_rng(0))[:4])
    path, output = checkpoint.find(stack_run), tmp_path / "predictions.csv"
    predict_here(path, [str(file), str(tmp_path / "four.tif")], output, batch_size=8, device="cpu")
    (row,) = read_table(output)
    (bad,) = read_table(tmp_path / "predictions.errors.csv")
    best, classifier = row["class_1"], volo.load(stack_run)
    assert best == classifier.predict(file)[0][0] == "steep"
    with Image.open(file) as image:
        assert classifier.predict(image)[0][0] == "steep"
    assert bad["reason"].startswith("an image must have 5 channels, got 4 of mode L in 4 frames")
    exported = export_model(path, tmp_path / "model.pt2", "torch-export")
    assert "(batch, 5, 32, 32)" in exported.description
    metadata = {"metadata.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=metadata).module()
    assert len(json.loads(metadata["metadata.json"])["mean"]) == 5
    images = classifier.preprocess(file)[None]
    torch.testing.assert_close(program(images), classifier.model(images), rtol=1e-4, atol=1e-4)


def few_steps(tmp_path: Path, folder: Path, name: str, in_chans: int = 5, **overrides):
    values = {
        "optim": dict(epochs=1, batch_size=20, max_steps=3),
        "data": dict(in_chans=in_chans),
        "run": dict(run_name=name),
    }
    return build_settings(small_run(tmp_path, folder).to_dict(), values, overrides)


def test_stacks_cut_at_random_are_the_same_whoever_reads_them(tmp_path, stacks):
    cut = dict(augment=dict(crop_area=[0.3, 1.0], crop_padding=None, auto_augment="rand"))
    one = train(few_steps(tmp_path, stacks, "one", **cut, run=dict(num_readers=0)))
    two = train(few_steps(tmp_path, stacks, "two", **cut, run=dict(num_readers=2)))
    assert same(weights(one), weights(two))
    assert "5 channels have no colors, so saturation stays as it is (auto_augment)" in notes_of(one)


def test_packed_stacks_train_to_the_weights_of_the_folder(tmp_path, stacks):
    pack(stacks, tmp_path / "packed", 10**5)
    one = train(few_steps(tmp_path, stacks, "one"))
    assert same(weights(train(few_steps(tmp_path, tmp_path / "packed", "two"))), weights(one))


def test_files_of_other_channels_are_named_before_training_or_left_out(tmp_path, stacks):
    for number in range(30):
        for name in CLASSES:
            (tmp_path / "images" / name).mkdir(parents=True, exist_ok=True)
            write_stack(tmp_path / "images" / name / f"{number}.tif", frames(True, np.random.default_rng(number)))
    other = tmp_path / "images" / "flat" / "7.tif"
    write_stack(other, frames(True, np.random.default_rng(0))[:3])
    with pytest.raises(InputError) as refused:
        train(few_steps(tmp_path, tmp_path / "images", "run"))
    assert f"{other} (an image must have 5 channels, got 3 of mode L in 3 frames; set --in-chans" in str(refused.value)
    run = train(few_steps(tmp_path, tmp_path / "images", "run", data=dict(skip_damaged=True)))
    assert (run / "damaged_images.txt").read_text().startswith(str(other))


def test_a_run_does_not_resume_with_other_channels(tmp_path, gray):
    settings = few_steps(tmp_path, gray, "run", 1, optim=dict(max_steps=2))
    train(settings)
    with pytest.raises(InputError, match=r"data\.in_chans: 1 before, 3 now"):
        train(build_settings(settings.to_dict(), {"data": dict(in_chans=3)}))


@pytest.mark.parametrize("in_chans", [1, 5])
def test_weights_for_colors_are_adapted_to_the_channels_of_a_run(tmp_path, gray, stacks, in_chans):
    before = save_model(tmp_path / "before", CLASSES, model_settings=dict(small_run(tmp_path, gray).model))
    still = dict(lr=1e-12, min_lr=0.0, max_steps=1, ema_decay=0.0, init_weights=str(before))
    run = train(few_steps(tmp_path, gray if in_chans == 1 else stacks, "run", in_chans, optim=still))
    expected = adapted(checkpoint.load_model(before)[0][FIRST], in_chans)
    torch.testing.assert_close(weights(run)[FIRST], expected, rtol=0, atol=1e-6)
    assert f"{FIRST} adapted from 3 to {in_chans} channels" in notes_of(run)


def test_weights_of_other_channels_and_a_teacher_that_sees_others_are_refused(tmp_path, gray):
    model = dict(small_run(tmp_path, gray).model)
    five = str(save_model(tmp_path / "five", CLASSES, model_settings=model, in_chans=5))
    with pytest.raises(InputError, match=r"of another shape: .* \(8, 5, 3, 3\) for .*, and its --in-chans$"):
        train(few_steps(tmp_path, gray, "run", 1, optim=dict(init_weights=five)))
    with pytest.raises(InputError, match=r"with in_chans=5 for in_chans=1; set --in-chans 5, or"):
        train(few_steps(tmp_path, gray, "run", 1, teaching=dict(teacher=five, distillation=0.5)))
