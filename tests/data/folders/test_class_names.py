"""Class names that look the same are the same wherever two lists are compared; others are quoted."""

import os
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import draw_folder
from tests.models import save_model
from tests.training.runs import small_run, train
from volo.analysis.subject import open_view
from volo.data.folders.class_names import differences, places, plain, same_names
from volo.data.folders.imagefolder import ImageFolder
from volo.errors import InputError
from volo.runs import checkpoint
from volo.training.teacher import check_classes

CAFE = "caf\u00e9"
SAME = [
    (CAFE, "cafe\u0301"), ("cafe\u0301", CAFE), ("\uac01", "\u1100\u1161\u11a8"),
    ("cat", "cat "), (" cat", "cat\u00a0"), ("\u00e9toile", "e\u0301toile"),  # one of which sorts after zebra
]  # fmt: skip
DIFFERENT = [("cat", "Cat"), ("cat", "c at"), ("cat", "cat\u200c"), ("cat", "\uff43at"), ("cat", "dog")]


@pytest.mark.parametrize(("name", "other"), SAME)
def test_train_and_test_may_write_a_class_otherwise(tmp_path, name, other):
    folder = draw_folder(tmp_path, {"train": {name: 2, "zebra": 1}, "test": {other: 2, "zebra": 1}})
    train_names, test_names = (ImageFolder(folder, split, 8).class_names for split in ("train", "test"))
    assert {*train_names} == {*test_names} == {plain(name), "zebra"}


@pytest.mark.parametrize(("name", "other"), SAME)
def test_two_such_folders_in_one_split_are_refused_with_distinct_names(tmp_path, name, other):
    folder = draw_folder(tmp_path, {"train": {name: 1, other: 1, "dog": 1}})
    with pytest.raises(InputError, match="classes must differ in more than Unicode form or whitespace") as refused:
        ImageFolder(folder, "train", 8)
    assert all(ascii(f"{folder}/train/{one}") in str(refused.value) for one in (name, other))


def test_a_class_whose_name_is_blank_is_refused(tmp_path):
    folder = draw_folder(tmp_path, {"train": {" ": 1, "dog": 1}})
    with pytest.raises(InputError, match="a class must have a name of plain text"):
        ImageFolder(folder, "train", 8)


@pytest.mark.parametrize(("name", "other"), SAME)
@pytest.mark.parametrize("below", ["test", "."])
def test_an_analysis_accepts_a_class_that_the_checkpoint_spells_differently(tmp_path, name, other, below):
    """The checkpoint as one of an earlier version, which kept names as the folders had them."""
    path = save_model(tmp_path / "run", ("zebra", name))
    folder = draw_folder(tmp_path / "images", {below: {other: 2, "zebra": 1}})
    view = open_view(checkpoint.load_model(path)[1], "test", str(folder))
    assert view.images.class_names == ("zebra", name)
    assert np.bincount(view.labels).tolist() == [1, 2]


@pytest.mark.parametrize(("name", "other"), SAME)
def test_a_teacher_may_write_a_class_otherwise(tmp_path, name, other):
    path = save_model(tmp_path / "teacher", (name, "zebra"))
    check_classes(path, checkpoint.load_model(path)[1], ("zebra", other))
    assert places(("zebra", other), (name, "zebra")) == [1, 0]


def test_a_run_resumes_when_its_folders_were_renamed_to_another_form(tmp_path):
    images = draw_folder(tmp_path / "images", {"train": {CAFE: 40, "zebra": 40}})
    train(small_run(tmp_path, images, optim=dict(max_steps=2)))
    os.rename(images / "train" / CAFE, images / "train" / "cafe\u0301 ")
    run_dir = train(small_run(tmp_path, images, optim=dict(max_steps=3)))
    assert checkpoint.load_model(checkpoint.find(run_dir, prefer="last"))[1].step == 3


def test_a_form_that_sorts_otherwise_is_refused_on_resume_rather_than_mixing_up_labels(tmp_path):
    images = draw_folder(tmp_path / "images", {"train": {"\u00e9toile": 40, "zebra": 40}})
    train(small_run(tmp_path, images, optim=dict(max_steps=2)))
    os.rename(images / "train" / "\u00e9toile", images / "train" / "e\u0301toile")
    with pytest.raises(InputError, match=r"the data must have the checkpoint's classes, .*; their order differs"):
        train(small_run(tmp_path, images, optim=dict(max_steps=3)))


@pytest.mark.parametrize(("name", "other"), DIFFERENT)
def test_names_that_differ_are_quoted_with_what_differs(tmp_path, name, other):
    folder = draw_folder(tmp_path, {"train": {name: 1, "zebra": 1}, "test": {other: 1, "zebra": 1}})
    with pytest.raises(InputError, match="test must have no classes that train lacks") as refused:
        ImageFolder(folder, "train", 8)
    said = str(refused.value)
    assert f": {other!r}" in said
    looks_alike = f"({other!a} and {name!a} differ in case, width, whitespace or invisible characters)"
    assert (looks_alike in said) == (other != "dog")


def test_of_many_names_the_first_are_quoted_and_the_rest_counted():
    assert differences([str(number) for number in range(20)], ["1"]).endswith("'15', '16' and 11 more")


@given(st.lists(st.text(max_size=5), unique_by=plain, max_size=6), st.sampled_from(("NFC", "NFD")), st.randoms())
def test_any_names_are_found_again_in_any_order_and_form(names, form, random):
    others = [f" {unicodedata.normalize(form, name)}\u3000" for name in names]
    assert same_names(names, others)
    assert differences(names, others) == ""
    random.shuffle(others)
    assert same_names([others[place] for place in places(names, others)], names)
