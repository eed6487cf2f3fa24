"""$VOLO_DATA_DIR: where one machine has the data that the settings name by the place of another."""

import shutil

import pytest

from tests.conftest import draw_folder
from tests.training.runs import same, small_run, train, weights
from volo.analysis.subject import open_view
from volo.errors import InputError
from volo.log import LOGGER
from volo.runs import checkpoint
from volo.runs.folder import open_data
from volo.settings.config import build_settings
from volo.settings.data import PLACE_HERE, place_here

COUNTS = {"train": {"cat": 40, "dog": 40}, "test": {"cat": 5, "dog": 5}}


def test_without_the_variable_the_data_are_where_the_settings_say(monkeypatch, tmp_path):
    for value in (None, ""):
        monkeypatch.delenv(PLACE_HERE, raising=False)
        if value is not None:
            monkeypatch.setenv(PLACE_HERE, value)
        assert place_here("/data/photos") == "/data/photos"
    monkeypatch.setenv(PLACE_HERE, str(tmp_path))
    assert place_here("/data/photos") == place_here("s3://bucket/photos") == str(tmp_path)
    monkeypatch.setenv(PLACE_HERE, "s3://bucket/photos/")
    assert place_here("/data/photos") == "s3://bucket/photos"


def test_the_settings_keep_the_place_that_they_were_given(monkeypatch, tmp_path):
    monkeypatch.setenv(PLACE_HERE, str(tmp_path))
    settings = build_settings({"data": dict(dataset="imagefolder", data_dir="/data/photos")}).resolved()
    assert settings.data.data_dir == "/data/photos" and "data_dir: /data/photos" in settings.to_yaml()
    assert settings.data.here().folder == str(tmp_path)


def test_a_training_says_where_this_machine_has_the_data(monkeypatch, tmp_path, caplog):
    images = draw_folder(tmp_path / "images", COUNTS)
    monkeypatch.setenv(PLACE_HERE, str(images))
    monkeypatch.setattr(LOGGER, "propagate", True)
    with caplog.at_level("INFO", LOGGER.name):
        train(small_run(tmp_path, tmp_path / "nowhere", optim=dict(epochs=1)))
    assert f"data are read from {images} on this machine, as $VOLO_DATA_DIR says" in caplog.messages


def test_drawn_images_are_nowhere(monkeypatch, tmp_path):
    monkeypatch.setenv(PLACE_HERE, str(tmp_path))
    assert build_settings({"data": dict(dataset="shapes")}).resolved().data.here().data_dir is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("data/photos", "must be an absolute path, since each process of a machine .*; name the whole path"),
        ("ftp://host/photos", "must be a path, got 'ftp://host/photos'"),
        ("~nosuchuser/x", "must begin with a home folder that exists"),
    ],
)
def test_a_place_that_cannot_be_is_refused_by_the_variables_name(monkeypatch, value, said):
    monkeypatch.setenv(PLACE_HERE, value)
    with pytest.raises(InputError, match=f"{PLACE_HERE} {said}"):
        place_here("/data/photos")


def test_a_file_and_an_archive_on_object_storage_are_refused(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(PLACE_HERE, str(tmp_path / "file"))
    with pytest.raises(InputError, match=f"{PLACE_HERE} must be a folder, got the file"):
        place_here("/data/photos")
    monkeypatch.setenv(PLACE_HERE, "s3://bucket/photos")
    with pytest.raises(InputError, match="must hold packed images, got 's3://bucket/photos' for dataset=cifar100"):
        build_settings({}).resolved().data.here()


def test_a_run_resumes_with_the_data_elsewhere_and_is_analyzed_there(monkeypatch, tmp_path):
    """The folder of the settings is gone by then."""
    images = draw_folder(tmp_path / "images", COUNTS)
    whole = train(small_run(tmp_path, images, run=dict(run_name="whole")))
    train(small_run(tmp_path, images, optim=dict(max_steps=6)))
    images.rename(tmp_path / "elsewhere")
    monkeypatch.setenv(PLACE_HERE, str(tmp_path / "elsewhere"))
    resumed = train(small_run(tmp_path, images))
    assert same(weights(resumed), weights(whole))
    description = checkpoint.load_model(checkpoint.newest(resumed))[1]
    assert description.settings.data.data_dir == str(images)
    for split, num_images in (("test", 10), ("val", 16)):
        assert len(open_view(description, split, None, resumed).index) == num_images


def test_a_folder_that_is_named_to_an_analysis_is_taken_whatever_the_variable_says(monkeypatch, tmp_path):
    images = draw_folder(tmp_path / "images", COUNTS)
    run_dir = train(small_run(tmp_path, images, optim=dict(epochs=1)))
    more = draw_folder(tmp_path / "more", {"test": {"cat": 7, "dog": 7}})
    monkeypatch.setenv(PLACE_HERE, str(images))
    description = checkpoint.load_model(checkpoint.newest(run_dir))[1]
    assert len(open_view(description, "test", str(more), run_dir).index) == 14


def test_other_images_there_are_refused_when_a_run_resumes(monkeypatch, tmp_path):
    images = draw_folder(tmp_path / "images", COUNTS)
    train(small_run(tmp_path, images, optim=dict(max_steps=6)))
    other = tmp_path / "other"
    shutil.copytree(images, other)
    (other / "train" / "cat" / "0007.png").write_bytes((images / "train" / "cat" / "0008.png").read_bytes())
    monkeypatch.setenv(PLACE_HERE, str(other))
    with pytest.raises(InputError, match=f"images it started with, got others in {other}: 1 changed"):
        train(small_run(tmp_path, images))


def test_a_packed_copy_serves_a_run_on_a_folder(monkeypatch, tmp_path):
    from volo.data.packed.packing import pack

    images = draw_folder(tmp_path / "images", COUNTS)
    pack(images, tmp_path / "packed", 2**20)
    settings = small_run(tmp_path, images).resolved()
    digest = open_data(settings)[0].contents.digest
    monkeypatch.setenv(PLACE_HERE, str(tmp_path / "packed"))
    assert open_data(settings)[0].contents.digest == digest
