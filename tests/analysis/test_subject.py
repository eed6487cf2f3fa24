"""Which images an analysis sees: the checkpoint's own, moved ones, and other folders with the same classes. Also
what the model says about them."""

import shutil

import numpy as np
import pytest
import torch

from tests.conftest import draw_folder
from volo.analysis.steps import predict
from volo.analysis.subject import Subject, compute_outputs, open_validation, open_view
from volo.data import shapes
from volo.data.datasets import open_train
from volo.data.pipeline import Pixels
from volo.data.splits import split_train
from volo.errors import InputError
from volo.model.build import create_model
from volo.runs.model_file import Description
from volo.settings.config import build_settings

CLASSES = ("cat", "dog", "owl")
COUNTS = {"train": dict.fromkeys(CLASSES, 10), "test": {"cat": 2, "dog": 3, "owl": 4}}


def described(class_names=CLASSES, split_hash="hash", **data) -> Description:
    settings = build_settings({"data": {"dataset": "imagefolder", **data}}).resolved()
    return Description(settings, class_names, split_hash, step=1, epoch=1)


def trained_on(folder, **data) -> Description:
    split = split_train(np.repeat(np.arange(3), 10), data.get("val_fraction", 0.2), seed=0)
    return described(split_hash=split.digest(), data_dir=str(folder), **{"val_fraction": 0.2, **data})


@pytest.mark.parametrize("below", ["test", "."])
def test_a_labelled_folder_may_hold_its_classes_below_test_or_at_once(tmp_path, below):
    draw_folder(tmp_path / "images", {below: COUNTS["test"]})
    view = open_view(described(data_dir="/gone"), "test", str(tmp_path / "images"))
    assert np.bincount(view.labels).tolist() == [2, 3, 4]
    assert not view.is_drawn


def test_classes_are_matched_by_name_not_by_place(tmp_path):
    """A folder lists its classes by name; those of shapes come in another order."""
    names = ("red disc", "blue disc", "white star")
    draw_folder(tmp_path / "images", {".": dict(zip(names, (1, 2, 3), strict=True))})
    view = open_view(described(names), "test", str(tmp_path / "images"))
    assert view.images.class_names == names
    assert np.bincount(view.labels).tolist() == [1, 2, 3]


@pytest.mark.parametrize("dataset", ["shapes", "cifar10", "cifar100"])
def test_any_data_set_takes_an_image_folder_with_its_classes(tmp_path, dataset):
    draw_folder(tmp_path / "images", {".": {"cat": 1, "dog": 2}})
    view = open_view(described(("dog", "cat"), dataset=dataset), "test", str(tmp_path / "images"))
    assert np.bincount(view.labels).tolist() == [2, 1]


@pytest.mark.parametrize("below", ["test", "."])
def test_a_folder_with_other_classes_is_refused_with_their_names(tmp_path, below):
    draw_folder(tmp_path / "images", {below: {"cat": 1, "cow": 1}})
    with pytest.raises(InputError, match=r"besides the checkpoint's 3, got 1 of 2 in .* that it lacks: 'cow';"):
        open_view(described(), "test", str(tmp_path / "images"))


@pytest.mark.parametrize("below", ["test", "."])
def test_a_folder_that_lacks_classes_is_shown_as_it_is_and_that_is_said(tmp_path, below):
    draw_folder(tmp_path / "images", {below: {"owl": 2, "dog": 1}})
    view = open_view(described(), "test", str(tmp_path / "images"))
    assert np.bincount(view.labels).tolist() == [0, 1, 2]
    assert view.missing_classes == ("cat",)
    assert view.notes[-1] == "The test images are of 2 of the 3 classes; there are none of cat."


def test_class_folders_alone_are_shown_as_they_were_split_also_where_they_were_moved_to(tmp_path):
    folder = draw_folder(tmp_path, {"images": dict.fromkeys(CLASSES, 40)}) / "images"
    data = described(data_dir=str(folder)).settings.data
    train, split = open_train(data)
    description = described(split_hash=split.digest(), data_dir=str(folder))
    test = open_view(description, "test")
    assert len(test.labels) + len(train) == 120
    assert "are held out as a test split" in test.notes[0]
    shutil.copy(folder / "cat" / "0000.png", folder / "cat" / "new.png")
    for place in (None, str(folder)):  # an image was added since: the others still are what they were
        assert len(open_view(description, "test", place).labels) <= len(test.labels) + 1
    (folder / "cat" / "new.png").unlink()
    moved = folder.rename(tmp_path / "moved")
    assert np.array_equal(open_view(description, "test", str(moved)).labels, test.labels)
    assert len(open_view(description, "val", str(moved)).labels) == len(split.val)
    other = draw_folder(tmp_path, {"other": dict.fromkeys(CLASSES, 30)}) / "other"
    view = open_view(description, "test", str(other))
    assert len(view.labels) == 90
    assert view.notes == [f"All 90 images of {other} are taken for the test split."]


@pytest.mark.parametrize("split", ["test", "val"])
def test_shapes_do_not_move(tmp_path, split):
    description = described(shapes.CLASS_NAMES, dataset="shapes")
    with pytest.raises(InputError, match="for shapes, which are drawn, data_dir must be an image folder"):
        open_view(description, split, str(tmp_path / "nothing"))


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no folder .*nothing.*--data-dir"):
        open_view(described(), "test", str(tmp_path / "nothing"))


def test_drawn_images_are_known_as_such():
    assert open_view(described(shapes.CLASS_NAMES, dataset="shapes"), "test").is_drawn


def test_validation_images_come_from_where_they_are(tmp_path):
    """Another folder has none of them; the same data moved there has them; then there are none any more."""
    folder = draw_folder(tmp_path / "images", COUNTS)
    other = str(draw_folder(tmp_path / "other", {".": COUNTS["test"]}))
    description = trained_on(folder)
    assert open_validation(description, other).data_dir is None
    moved = folder.rename(tmp_path / "moved")
    view = open_validation(description, str(moved))
    assert view.data_dir == str(moved) and len(view.labels) == 6
    assert open_validation(description, other) is None


def test_without_a_validation_split_there_are_no_validation_images(tmp_path):
    folder = draw_folder(tmp_path / "images", COUNTS)
    assert open_validation(trained_on(folder, val_fraction=0), None) is None


def test_three_classes_in_another_order_keep_their_images(tmp_path):
    """Of two classes every other order is its own inverse, as it is where two of three have changed places."""
    names, counts = ("owl", "cat", "dog"), {"cat": 2, "dog": 3, "owl": 1}
    draw_folder(tmp_path / "images", {".": counts})
    view = open_view(described(names), "test", str(tmp_path / "images"))
    found = np.bincount(view.labels, minlength=3)
    assert dict(zip(names, found.tolist(), strict=True)) == counts


@pytest.mark.parametrize("name", ["nano", "nano, pyramid", "volo_d1"])
def test_outputs_are_what_the_model_says_and_what_its_head_reads(tmp_path, name):
    """Also those of a worker whose share is empty."""
    folder = draw_folder(tmp_path / "images", {".": COUNTS["test"]})
    size = 64 if name == "volo_d1" else 32
    model = create_model(name.split(",")[0], num_classes=3, img_size=size, hierarchical="pyramid" in name).eval()
    subject = Subject(model, described(data_dir="/gone", image_size=size))
    view = open_view(subject.description, "test", str(folder))
    cpu = torch.device("cpu")
    outputs = compute_outputs(subject, view, cpu)
    assert outputs.shape == (9, 3 + model.num_features) and outputs.dtype == np.float32
    data = subject.description.settings.data
    images = Pixels(view.images, data.mean, data.std, cpu).plain(view.index)
    with torch.inference_mode():
        expected = (model(images), model.forward_head(model.forward_features(images), pre_logits=True))
    assert np.array_equal(outputs, torch.cat(expected, dim=1).numpy())
    predictions = predict(subject, view, lambda subject, view, work: work(subject, view, cpu, 0, 1))
    assert np.array_equal(np.concatenate([predictions.logits, predictions.features], axis=1), outputs)
    shares = [compute_outputs(subject, view, cpu, rank, 10) for rank in range(10)]
    assert len(shares[9]) == 0 and np.allclose(np.concatenate(shares), outputs, atol=1e-5)
