"""Unlabelled images: which are found, which can be read, and what is made of them."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.models import save_model
from volo.analysis.explaining.images import digest_of, list_images, predictions
from volo.analysis.subject import load_subject
from volo.data.folders.image import read_image
from volo.errors import InputError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return load_subject(save_model(tmp_path_factory.mktemp("run"), ("cat", "dog", "owl")))


def paint(path: Path, size=(40, 30), mode="RGB", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.effect_mandelbrot(size, (-2, -1, 1, 1), 20)
    image = Image.fromarray(np.asarray(image) * np.uint16(257)) if mode == "I;16" else image.convert(mode)
    image.save(path, **options)
    return path


def names(listing) -> list[str]:
    return [file.name for file in listing.files]


def test_folders_are_searched_at_any_depth_and_listed_in_order(tmp_path):
    expected = [paint(tmp_path / name) for name in ("a.png", "b/c/d/e.JPG", "b/f.webp", "z.bmp")]
    for ignored in ("notes.txt", ".hidden.png", ".thumbs/a.png"):
        (tmp_path / ignored).parent.mkdir(exist_ok=True)
        (tmp_path / ignored).write_text("no image")
    assert names(list_images([str(tmp_path)])) == [str(path) for path in expected]


def test_a_file_found_twice_is_listed_once_and_one_that_is_named_needs_no_suffix(tmp_path):
    image = paint(tmp_path / "a.png")
    other = image.rename(tmp_path / "photo")
    paint(image)
    found = list_images([str(tmp_path), str(image), f"{tmp_path}/../{tmp_path.name}/a.png", str(other)])
    assert names(found) == [str(image), str(other)]


def test_links_are_followed_but_never_in_a_circle(tmp_path):
    paint(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "in")
    assert names(list_images([str(tmp_path / "in")])) == [str(tmp_path / "in" / "link" / "a.png")]


def test_a_pipe_is_no_image_and_a_dead_link_that_is_named_an_unreadable_one(tmp_path, subject):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "dead.png").symlink_to(tmp_path / "nothing")
    [found] = list_images([str(tmp_path / "dead.png")]).files
    assert (found.name, found.size) == (str(tmp_path / "dead.png"), -1)
    [result] = predictions(subject, [found.path], CPU, 4)
    assert "No such file" in result
    with pytest.raises(InputError, match="must name files or folders"):
        list_images([str(tmp_path / "pipe.png")])
    with pytest.raises(InputError, match=r"none in .* but 1 link .*, 1 pipe, .*; restore the targets of the links"):
        list_images([str(tmp_path)])


@pytest.mark.parametrize("inputs", [["none"], ["."], ["notes.txt", "none.png"]])
def test_inputs_without_an_image_are_refused(tmp_path, monkeypatch, inputs):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match="--input must"):
        list_images(inputs)


def test_the_digest_changes_with_any_name_size_or_time(tmp_path):
    image = paint(tmp_path / "a.png")
    digests = {digest_of(list_images([str(tmp_path)]).files)}
    os.utime(image, ns=(1, 1))
    digests.add(digest_of(list_images([str(tmp_path)]).files))
    image.rename(tmp_path / "b.png")
    digests.add(digest_of(list_images([str(tmp_path)]).files))
    assert len(digests) == 3


ODD = {
    "one.png": dict(size=(1, 1)),
    "wide.png": dict(size=(20_000, 10)),
    "tall.png": dict(size=(10, 20_000)),
    "a.gif": dict(mode="P"),
    "cmyk.jpg": dict(mode="CMYK"),
    "alpha.png": dict(mode="RGBA"),
    "palette.png": dict(mode="P", transparency=0),
    "grey.png": dict(mode="LA"),
    "bits.png": dict(mode="1"),
    "sixteen.png": dict(mode="I;16"),
    "float.tiff": dict(mode="F"),
}


@pytest.mark.parametrize("name", ODD)
def test_images_of_any_size_and_mode_are_predicted(tmp_path, subject, name):
    path = paint(tmp_path / name, **ODD[name])
    [result] = predictions(subject, [str(path)], CPU, 4)
    assert sum(probability for _, probability in result) == pytest.approx(1)


@pytest.mark.parametrize("harm", ["text", "empty", "cut short", "folder"])
def test_what_is_no_image_is_told_with_its_reason_and_costs_the_others_nothing(tmp_path, subject, harm):
    good = [str(paint(tmp_path / f"{number}.png")) for number in range(3)]
    bad = tmp_path / "bad.png"
    content = Path(good[0]).read_bytes()
    if harm == "folder":
        bad.mkdir()
    else:
        bad.write_bytes({"text": b"not an image", "empty": b"", "cut short": content[: len(content) // 2]}[harm])
    results = list(predictions(subject, [good[0], str(bad), *good[1:]], CPU, 2))
    assert isinstance(results[1], str)
    assert results[1]
    assert dict(results[0]) == pytest.approx(dict(results[2]))


def test_results_stand_in_the_order_of_the_files_whatever_the_batch(tmp_path, subject):
    rng, paths = np.random.default_rng(0), []
    for number in range(7):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(paths[-1])
    data = subject.description.settings.data
    pixels = torch.tensor(np.stack([read_image(path, 32) for path in paths]) / 255, dtype=torch.float32)
    inputs = ((pixels - torch.tensor(data.mean)) / torch.tensor(data.std)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = subject.model(inputs).softmax(1).numpy()
    for batch_size in (1, 3, 7, 100):
        results = list(predictions(subject, paths, CPU, batch_size))
        found = np.zeros_like(expected)
        for row, result in zip(found, results, strict=True):
            for number, probability in result:
                row[number] = probability
        assert np.allclose(found, expected, atol=1e-5)


def test_weights_that_are_not_finite_are_refused(tmp_path, subject):
    broken = load_subject(save_model(tmp_path / "run", ("cat", "dog")))
    with torch.no_grad():
        next(broken.model.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="logits must be finite"):
        list(predictions(broken, [str(paint(tmp_path / "a.png"))], CPU, 4))


def test_a_bomb_of_pixels_is_unreadable(tmp_path, subject, monkeypatch):
    path = str(paint(tmp_path / "big.png", size=(100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        [result] = predictions(subject, [path], CPU, 4)
    assert "decompression bomb" in result
