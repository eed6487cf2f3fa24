"""Which images of a folder are trained on, validated on and tested on, however people lay them out."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import draw_folder
from volo.data.datasets import has_test, open_source, open_split, open_train, split_of
from volo.data.folders.imagefolder import ImageFolder
from volo.data.folders.layout import VALIDATION, NoTestSplit
from volo.errors import InputError
from volo.settings.config import build_settings

CLASSES = {"cat": 10, "dog": 12, "owl": 11}


def data_of(folder: Path, **values):
    return build_settings({"data": dict(dataset="imagefolder", data_dir=str(folder), **values)}).resolved().data


def names(folder: Path, split: str) -> list[str]:
    return [Path(file.name).relative_to(folder).as_posix() for file in ImageFolder(folder, split, 8).files]


@pytest.mark.parametrize("name", VALIDATION)
def test_a_validation_folder_is_validated_on_and_all_of_train_trained_on(tmp_path, name):
    folder = draw_folder(tmp_path / "images", {"train": CLASSES, name: {"owl": 4, "cat": 3, "dog": 2}})
    images, split = open_train(data_of(folder))
    files = names(folder, "train")
    assert {files[number].split("/")[0] for number in split.train} == {"train"}
    assert Counter(files[number].rpartition("/")[0] for number in split.val) == {
        f"{name}/cat": 3, f"{name}/dog": 2, f"{name}/owl": 4
    }  # fmt: skip
    assert len(split.train) == 33
    for part in (split.train, split.val):
        of_folder = [images.class_names.index(files[number].split("/")[1]) for number in part]
        assert images.labels[part].tolist() == of_folder
    assert images.notes[-1].endswith(f" validation images in {folder / name}")


def test_a_validation_folder_beside_a_fraction_is_refused_as_are_two(tmp_path):
    folder = draw_folder(tmp_path / "images", {"train": CLASSES, "valid": CLASSES})
    for fraction in (0, 0.2):
        with pytest.raises(InputError, match=rf"got --val-fraction {fraction:.1f} and 33 images .*omit --val-fraction"):
            open_train(data_of(folder, val_fraction=fraction), is_new=True)
    draw_folder(folder, {"val": CLASSES})
    with pytest.raises(InputError, match="must have one validation folder, got val and valid in"):
        open_train(data_of(folder))


def test_an_older_run_that_cut_its_validation_images_from_train_keeps_its_split(tmp_path):
    """Its settings state the fraction; the folder's validation images come after all others."""
    folder = draw_folder(tmp_path / "images", {"train": CLASSES})
    before = split_of(open_source(data_of(folder), "train"), data_of(folder)).digest()
    draw_folder(folder, {"val": CLASSES})
    stated = data_of(folder, val_fraction=0.1)
    assert "these are not used: --val-fraction was set" in open_train(stated)[0].notes[-1]
    assert split_of(open_source(stated, "train"), stated).digest() == before
    assert split_of(open_source(data_of(folder), "train"), data_of(folder)).digest() != before


def test_without_a_validation_folder_a_tenth_of_each_class_is_held_out(tmp_path):
    folder = draw_folder(tmp_path / "images", {"train": CLASSES})
    images, split = open_train(data_of(folder))
    assert np.bincount(images.labels[split.val]).tolist() == [1, 1, 1]


@pytest.mark.parametrize("split", ["val", "test"])
def test_other_splits_may_lack_classes_of_train_but_not_add_any(tmp_path, split):
    folder = draw_folder(tmp_path / "images", {"train": CLASSES, split: {"dog": 2}})
    images, _ = open_train(data_of(folder), is_new=True)
    assert f"{folder / split} has no images of 'cat', 'owl'" in images.notes
    draw_folder(folder, {split: {"bird": 1, "cow": 1}})
    with pytest.raises(InputError, match=rf"{split} must have no classes that train lacks, got 2 .*: 'bird', 'cow';"):
        open_train(data_of(folder))


def test_without_a_test_folder_training_works_and_an_analysis_gets_alternatives(tmp_path):
    data = data_of(draw_folder(tmp_path / "images", {"train": CLASSES, "valid": CLASSES}))
    open_train(data, is_new=True)
    assert not has_test(data)
    with pytest.raises(NoTestSplit, match=r"must be in .*images/test/<class>/.*use --split val"):
        open_split(data, "test")


def test_a_test_split_is_read_without_the_images_that_were_trained_on(tmp_path):
    folder = draw_folder(tmp_path / "images", {"test": CLASSES, "val": CLASSES})
    assert len(open_split(data_of(folder), "test")) == 33


def test_class_folders_alone_are_split_without_loss_and_with_a_note(tmp_path):
    folder = draw_folder(tmp_path, {"images": dict.fromkeys("abc", 100)}, size=4) / "images"
    data = data_of(folder, image_size=4)
    images, split = open_train(data, is_new=True)
    test = open_split(data, "test")
    trained = {*names(folder, "train")}
    assert not trained & {*names(folder, "test")}
    assert len(trained) + len(test) == 300 and len(split.train) + len(split.val) == len(trained)
    assert 15 <= len(test) <= 45  # a tenth of 300, within three standard deviations
    assert test.class_names == images.class_names == ("a", "b", "c")
    said = f"has no train: 10% of its class folders, chosen by file name, {len(test)} of 300 images, are held out"
    assert said in images.notes[0] and said in test.notes[0]


def test_adding_or_removing_a_file_moves_no_other_between_train_and_test(tmp_path):
    folder = draw_folder(tmp_path, {"images": dict.fromkeys("ab", 60)}, size=4) / "images"
    train, test = ({*names(folder, split)} for split in ("train", "test"))
    gone = f"a/{7:04d}.png"
    (folder / gone).unlink()
    draw_folder(folder, {"b/more": {"deeper": 30}}, size=4)
    assert train - {gone} <= {*names(folder, "train")}
    assert test - {gone} <= {*names(folder, "test")}


def test_no_class_loses_all_its_images_to_the_test_split(tmp_path):
    folder = draw_folder(tmp_path, {"images": dict.fromkeys(map(str, range(60)), 1)}, size=4) / "images"
    assert len(names(folder, "train")) == 60
    with pytest.raises(NoTestSplit, match=r"got none of the 60 in .* use --split val"):
        open_split(data_of(folder, image_size=4), "test")
    assert not has_test(data_of(folder, image_size=4))


@pytest.mark.parametrize(
    ("folders", "rule"),
    [
        (("Train", "test"), "lowercase names, got Train in"),
        (("train", "Val"), "lowercase names, got Val in"),
        (("test", "valid"), r"must hold train/<class>/<images>, got no folder .*train beside test and valid;"),
        ((".", "x"), r"got no folder .*train; put it there"),
        (("mine/train", "other/train"), r"must name the folder that holds train, got .*use --data-dir .*images/mine"),
    ],
)
def test_a_layout_that_could_mean_two_things_is_refused_with_what_was_found(tmp_path, folders, rule):
    for folder in folders:
        (tmp_path / "images" / folder).mkdir(parents=True)
    folder = tmp_path / "images" / "x" if "x" in folders else tmp_path / "images"
    with pytest.raises(InputError, match=rule):
        ImageFolder(folder, "train", 8)


def test_folders_beside_the_splits_are_reported_as_unused(tmp_path):
    folder = draw_folder(tmp_path / "images", {"train": CLASSES, "extra": {"cat": 1}})
    assert f"not used: extra in {folder}" in ImageFolder(folder, "train", 8).notes


def test_an_empty_class_or_damaged_image_to_test_on_is_named_before_training(tmp_path):
    folder = draw_folder(tmp_path / "images", {"train": CLASSES, "test": {"cat": 3, "dog": 3}})
    (folder / "test" / "cat" / "0001.png").write_bytes((folder / "test" / "cat" / "0001.png").read_bytes()[:-300])
    (folder / "train" / "owl" / "0002.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"got 2 of 39 that are not:\n.*owl/0002\.png .*\n.*test/cat/0001\.png"):
        open_train(data_of(folder), is_new=True)
    (folder / "test" / "owl").mkdir()
    (folder / "test" / "bee").mkdir()
    with pytest.raises(InputError, match="must have no classes that train lacks"):
        open_train(data_of(folder), is_new=True)
    (folder / "test" / "bee").rmdir()
    with pytest.raises(InputError, match=r"a class must hold an image, got none in .*test/owl.*remove the folder"):
        open_train(data_of(folder), is_new=True)
