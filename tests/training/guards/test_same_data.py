"""Two ranks whose nodes have folders of their own, as two real processes with two homes."""

import shutil
from pathlib import Path

import pytest

from tests.cluster.conftest import free_ports
from tests.conftest import draw_folder
from tests.faults.tools.forked import Command
from tests.training.runs import small_run
from volo.data.datasets import open_train
from volo.settings.config import build_settings
from volo.training.guards.same_data import data_digests

COUNTS = {"train": {"cat": 20, "dog": 20}}


@pytest.fixture
def homes(tmp_path) -> list[Path]:
    """Two copies of one folder, written at other times."""
    draw_folder(tmp_path / "one" / "images", COUNTS)
    shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=shutil.copyfile)
    return [tmp_path / "one", tmp_path / "two"]


def trained(tmp_path: Path, homes: list[Path]) -> tuple[list[int], list[str]]:
    """Exit codes, and what each rank said."""
    run = dict(num_workers=None, hang_timeout="0")
    command = Command.of(small_run(tmp_path, Path("~/images"), optim=dict(epochs=1), run=run))
    world = {"TORCHELASTIC_RUN_ID": "homes", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0])}
    jobs = [
        command.start(None, **world, RANK=str(rank), LOCAL_RANK=str(rank), HOME=str(home))
        for rank, home in enumerate(homes)
    ]
    return [job.ends_with() for job in jobs], [job.said() for job in jobs]


def test_copies_of_one_folder_train_together(tmp_path, homes):
    codes, said = trained(tmp_path, homes)
    assert codes == [0, 0], said


def lacking(home: Path) -> None:
    (home / "images" / "train" / "dog" / "0004.png").unlink()


def renamed(home: Path) -> None:
    (home / "images" / "train" / "dog").rename(home / "images" / "train" / "wolf")


def other_bytes(home: Path) -> None:
    with open(home / "images" / "train" / "cat" / "0007.png", "ab") as file:
        file.write(b"\0")


def exchanged(home: Path) -> None:
    """Two images, of one size."""
    one, other = (home / "images" / "train" / name for name in ("cat/0002.png", "dog/0003.png"))
    one.rename(home / "aside")
    other.rename(one)
    (home / "aside").rename(other)


def missing(home: Path) -> None:
    shutil.rmtree(home / "images")


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lacking, ["39 images of 2 classes", "in images and split: 1 only on rank 0 (train/dog/0004.png); make the"]),
        pytest.param(
            renamed,
            ["They differ in classes and images: 20 moved (train/dog/0000.png to train/wolf/0000.png, "],
            marks=pytest.mark.slow,
        ),
        (other_bytes, ["They differ in images: 1 changed (train/cat/0007.png); make the folders the same"]),
        (exchanged, ["They differ in images: 2 changed (train/cat/0002.png, train/dog/0003.png); make the folders"]),
        (missing, ["rank 1 on ", "got no folder", "put it there"]),
    ],
)
def test_ranks_whose_folders_differ_are_all_refused_before_the_first_step(tmp_path, homes, harm, expected):
    harm(homes[1])
    codes, said = trained(tmp_path, homes)
    assert codes == [2, 2], said
    for words in expected:
        assert words in said[0] and words in said[1]
    assert "Traceback" not in said[0] + said[1]
    assert not list(tmp_path.rglob("step_*"))


def test_the_digests_depend_on_no_place_or_time_and_on_everything_else(tmp_path, homes):
    def digests(home: Path, **values) -> dict[str, str]:
        data = dict(dataset="imagefolder", data_dir=str(home / "images"), **values)
        return data_digests(*open_train(build_settings({"data": data}).resolved().data))

    one = digests(homes[0])
    assert digests(homes[1]) == one
    assert {name for name, digest in digests(homes[1], split_seed=1).items() if digest != one[name]} == {"split"}
    other_bytes(homes[1])
    assert {name for name, digest in digests(homes[1]).items() if digest != one[name]} == {"images"}
