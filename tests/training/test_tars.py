"""Training on webdataset's tars gives the weights that training on the image folder gives, killed or not."""

import os
import shutil
from pathlib import Path

import pytest

from tests.data.tars.written import write_tars
from tests.faults.tools.forked import Command
from tests.faults.tools.kills import Kill
from tests.faults.tools.runs import assert_same, command, newest_step
from tests.training.runs import losses, same, small_run, train, weights
from volo.cli import analyze
from volo.cli.outcome import exit_code
from volo.doctor.data import check_data
from volo.errors import InputError
from volo.tables import read_table

CUT = dict(crop_area=(0.3, 1.0))


@pytest.fixture
def tars(folder, tmp_path) -> Path:
    return write_tars(folder, tmp_path / "tars")


@pytest.mark.parametrize("augment", [{}, CUT], ids=["decoded", "cut"])
def test_tars_give_the_weights_that_the_folder_gives_and_a_run_goes_on_with_either(tmp_path, folder, tars, augment):
    whole = train(small_run(tmp_path, folder, augment=augment, run=dict(run_name="whole")))
    for place, stop in ((tars, 5), (folder, 8), (tars, None)):
        moved = train(small_run(tmp_path, place, augment=augment, optim=dict(max_steps=stop), run=dict(num_readers=1)))
    assert same(weights(moved), weights(whole))
    assert losses(moved) == losses(whole)


@pytest.mark.parametrize("kill", [Kill("after an update", 5), Kill("before a save", 3)], ids=str)
def test_a_killed_run_on_tars_resumes_to_the_weights_of_the_folder(tmp_path, folder, tars, kill):
    whole = train(small_run(tmp_path, folder, optim=dict(epochs=2), run=dict(run_name="whole", checkpoint_every=2)))
    job = command(tmp_path, tars, epochs=2)
    assert job.start(kill).ends_with() == kill.exit_code
    assert newest_step(job.run_dir) > 0
    job.finish()
    assert_same(job.run_dir, whole)


def test_a_tar_cut_short_ends_a_job_with_code_2_before_anything_is_trained(tmp_path, tars):
    os.truncate(tars / "train-000001.tar", 5000)
    job = Command.of(small_run(tmp_path, tars)).start()
    assert job.ends_with() == 2
    assert job.said().count("error: ") == 1 and "Traceback" not in job.said()
    assert "train-000001.tar (it is cut short" in job.said()
    assert not list(tmp_path.rglob("step_*"))


def test_other_images_in_a_tar_are_refused_on_resume_by_name(tmp_path, folder, tars):
    train(small_run(tmp_path, tars, optim=dict(max_steps=3)))
    shutil.copyfile(folder / "test/cat/0000.png", folder / "train/cat/0000.png")
    write_tars(folder, tars)
    with pytest.raises(InputError, match=r"1 changed \(train/cat/0000.png\)"):
        train(small_run(tmp_path, tars))


def test_tars_are_analyzed_by_names_that_tell_the_tar_and_looked_at_by_doctor(tmp_path, tars):
    settings = small_run(tmp_path, tars, optim=dict(max_steps=4))
    flags = ["--checkpoint", str(train(settings)), "--num-workers", "0", "--no-show", "--analysis", "predictions"]
    for number, place in enumerate(([], ["--data-dir", str(tars)])):
        output = tmp_path / str(number)
        assert exit_code(analyze.main, [*flags, "--output-dir", str(output), *place]) == 0
        names = [row["file"] for row in read_table(output / "predictions.csv")]
        assert sorted(name.split(" in ")[0] for name in names) == sorted(
            f"test/{kind}/{number:04}.png" for kind in ("cat", "dog") for number in range(10)
        )
        assert {name.split(" in ")[1] for name in names} == {str(tars / "test-000000.tar")}
    found = check_data(settings.resolved().data)
    assert found.status == "ok"
    assert "80 images of 2 classes" in found.found and "20 to test on" in found.found
