"""`volo.load`: a trained model in three lines."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import volo
from tests.models import recast, save_model
from volo.analysis.classifier import ranked
from volo.analysis.subject import load_subject
from volo.data.folders.image import read_image
from volo.runs import checkpoint

NAMES = ("cat", "dog", "owl")


@pytest.fixture
def folder(tmp_path) -> Path:
    return save_model(tmp_path / "run", NAMES)


@pytest.fixture
def photo(tmp_path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_run_and_every_lone_file_of_it_load_as_the_same_classifier(folder, tmp_path, photo):
    lone = tmp_path / "lone.safetensors"
    lone.write_bytes((folder / checkpoint.MODEL).read_bytes())
    exported = checkpoint.export_pt(folder, tmp_path / "lone.pt")
    expected = volo.load(tmp_path / "run").predict(photo)
    for path in (str(tmp_path / "run" / "last"), folder, lone, exported):
        classifier = volo.load(path)
        assert classifier.class_names == NAMES
        assert not classifier.model.training
        assert classifier.predict(photo) == expected


def test_prediction_is_the_softmax_of_the_model_on_the_preprocessed_image(folder, photo):
    classifier = volo.load(folder)
    with torch.inference_mode():
        logits = load_subject(folder).model(classifier.preprocess(photo)[None])[0]
    found = classifier.predict(photo)
    probabilities = dict(zip(NAMES, logits.softmax(0).tolist(), strict=True))
    assert [name for name, _ in found] == sorted(NAMES, key=probabilities.get, reverse=True)
    assert dict(found) == pytest.approx(probabilities, abs=1e-6)
    assert classifier.predict(photo, k=1) == found[:1]


def test_a_path_an_opened_image_and_an_array_are_preprocessed_alike(folder, photo):
    classifier = volo.load(folder)
    from_path = classifier.preprocess(photo)
    assert (from_path.shape, from_path.dtype) == ((3, 32, 32), torch.float32)
    with Image.open(photo) as opened:
        assert torch.equal(classifier.preprocess(opened), from_path)
        assert torch.equal(classifier.preprocess(np.asarray(opened)), from_path)


@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_preprocessing_is_the_checkpoints_own(tmp_path, photo, resize):
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    classifier = volo.load(save_model(tmp_path, NAMES, resize=resize, image_size=24, mean=mean, std=std))
    expected = (read_image(photo, 24, resize) / 255 - mean) / std
    assert np.allclose(classifier.preprocess(photo).permute(1, 2, 0), expected, atol=1e-6)


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 3)), np.zeros((3, 8, 8), np.uint8), np.zeros((0, 4, 3), np.uint8), [[1]], None]
)
def test_what_is_no_image_is_refused(folder, array):
    with pytest.raises(volo.InputError, match="an image must be a path, a Pillow image, or an array"):
        volo.load(folder).preprocess(array)


def test_files_that_are_no_images_and_k_of_zero_are_refused(folder, photo):
    with pytest.raises(volo.InputError, match=r"every image must be readable, got none\.png"):
        volo.load(folder).predict("none.png")
    for k in (0, -1, "3", 1.5, None, True):
        with pytest.raises(volo.InputError, match=rf"k must be a whole number of at least 1, got {k!r}; leave it out"):
            volo.load(folder).predict(photo, k=k)
    assert len(volo.load(folder).predict(photo, k=np.int64(2))) == 2


@pytest.mark.parametrize("mode", ["RGB", "L", "F", "I;16"])
@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_a_pillow_image_without_pixels_is_refused(folder, mode, size):
    with pytest.raises(volo.InputError, match=f"an image must have at least one pixel, got {size[0]}x{size[1]}; leave"):
        volo.load(folder).predict(Image.new(mode, size))


def test_an_opened_image_whose_pixels_are_damaged_is_refused_by_name(folder, photo):
    photo.write_bytes(photo.read_bytes()[:5000])
    with Image.open(photo) as opened, pytest.raises(volo.InputError, match=r"must be readable, got .*photo\.png"):
        volo.load(folder).predict(opened)


def test_pipes_and_devices_are_refused_at_once(folder, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    classifier = volo.load(folder)
    for path in (tmp_path / "pipe.png", "/dev/zero"):
        with pytest.raises(volo.InputError, match=rf"got {path} \(a pipe, socket or device; copy"):
            classifier.predict(path)
    with pytest.raises(volo.InputError, match="Is a directory"):
        classifier.predict(tmp_path)
    with pytest.raises(volo.InputError, match="a checkpoint"):
        volo.load(tmp_path / "pipe.png")


@pytest.mark.parametrize("value", [None, 3, b"outputs/run", ["outputs/run"]])
def test_what_is_no_path_is_refused_with_rule_value_and_remedy(value):
    with pytest.raises(volo.InputError, match=f"a checkpoint must be a path, got {re.escape(repr(value))}; give it as"):
        volo.load(value)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_model_whose_weights_are_not_finite_predicts_nothing(folder, photo, number):
    classifier = volo.load(folder)
    with torch.no_grad():
        classifier.model.head.weight[0, 0] = number
    with pytest.raises(volo.InputError, match=r"logits must be finite, got others for .*photo\.png; use an earlier"):
        classifier.predict(photo)
    with pytest.raises(volo.InputError, match="logits must be finite, got others for this image; use an earlier"):
        classifier.predict(Image.open(photo))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool, torch.complex64])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_that_are_no_floating_point_numbers_are_refused_by_name(folder, tmp_path, suffix, dtype):
    file = recast(folder, tmp_path / f"cast{suffix}", dtype)
    with pytest.raises(volo.InputError, match=rf"cast{suffix} must hold the weights .* of {dtype} for torch.float32"):
        volo.load(file)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_weights_in_another_floating_point_type_are_taken(folder, tmp_path, photo, dtype):
    found = dict(volo.load(recast(folder, tmp_path / "cast.safetensors", dtype)).predict(photo))
    assert found == pytest.approx(dict(volo.load(folder).predict(photo)), abs=1e-3)


def test_equal_logits_rank_by_class():
    order, probabilities = ranked(np.array([[1.0, 3.0, 3.0, 3.0]]), 2)
    assert order.tolist() == [[1, 2]]
    assert probabilities[0, 0] == probabilities[0, 1] < 1 / 3


def test_asking_for_load_loads_torch_and_importing_volo_does_not():
    script = "import sys, volo; before = 'torch' in sys.modules; volo.load; print(before, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_a_model_that_was_used_can_be_trained():
    """What is remembered of a map's size from inference mode must be of use to gradients."""
    model, images = volo.create_model("quickstart", img_size=44, outlook_op="dense"), torch.rand(2, 3, 44, 44)
    with torch.inference_mode():
        model(images)
    model(images).sum().backward()


def test_arrays_are_images_of_the_channels_that_a_model_sees(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 5), dtype=np.uint8)
    gray, five = (volo.load(save_model(tmp_path / str(n), NAMES, in_chans=n)) for n in (1, 5))
    frames = [Image.fromarray(np.ascontiguousarray(pixels[..., n])) for n in range(5)]
    frames[0].save(tmp_path / "five.tif", save_all=True, append_images=frames[1:])
    expected = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    with Image.open(tmp_path / "five.tif") as opened:
        for image in (pixels, tmp_path / "five.tif", opened):
            assert torch.allclose(five.preprocess(image), (expected - 0.5) / 0.5, atol=1e-6)
    colors, mean, std = pixels[..., :3].copy(), 0.449, 0.226
    luma = torch.from_numpy(np.array(Image.fromarray(colors).convert("L"))) / 255
    for image, seen in ((pixels[..., 0].copy(), expected[0]), (colors, luma)):
        assert torch.allclose(gray.preprocess(image), (seen[None] - mean) / std, atol=1e-5)
    assert len(five.predict(pixels)) == len(gray.predict(colors)) == len(NAMES)
    for image in (colors, pixels[..., 0], pixels.astype(np.float32)):
        with pytest.raises(volo.InputError, match=r"or an array \(H, W, 5\) uint8, got .*; scale values"):
            five.preprocess(image)
