"""Two ranks whose nodes have folders of their own, as two real processes with two homes."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import draw_folder
from tests.faults.tools.forked import Command
from tests.ports import free_ports
from tests.training.runs import small_run
from volo.data.datasets import open_train
from volo.errors import InputError
from volo.runs.folder import open_data
from volo.settings.config import build_settings
from volo.training.guards.same_data import Reference, data_digests, open_same_data, seen_here
from volo.training.world import single_process

COUNTS = {"train": {"cat": 20, "dog": 20}}


@pytest.fixture
def homes(tmp_path) -> list[Path]:
    """Two copies of one folder, written at other times."""
    draw_folder(tmp_path / "one" / "images", COUNTS)
    shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=shutil.copyfile)
    return [tmp_path / "one", tmp_path / "two"]


def trained(tmp_path: Path, homes: list[Path]) -> tuple[list[int], list[str]]:
    """Exit codes, and what each rank said."""
    return trained_in(tmp_path, Path("~/images"), [{"HOME": str(home)} for home in homes])


def trained_in(tmp_path: Path, images: Path, environments: list[dict[str, str]]) -> tuple[list[int], list[str]]:
    """As `trained`, each rank with one of these environments."""
    run = dict(num_workers=None, hang_timeout="0")
    command = Command.of(small_run(tmp_path, images, optim=dict(epochs=1), run=run))
    world = {"TORCHELASTIC_RUN_ID": "homes", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0])}
    jobs = [
        command.start(None, **world, RANK=str(rank), LOCAL_RANK=str(rank), **environment)
        for rank, environment in enumerate(environments)
    ]
    return [job.ends_with() for job in jobs], [job.said() for job in jobs]


def test_copies_of_one_folder_train_together(tmp_path, homes):
    codes, said = trained(tmp_path, homes)
    assert codes == [0, 0], said


def test_each_rank_reads_the_data_where_its_own_machine_has_them(tmp_path, homes):
    """The folder of the settings is nowhere."""
    places = [{"VOLO_DATA_DIR": str(home / "images")} for home in homes]
    codes, said = trained_in(tmp_path, tmp_path / "nowhere", places)
    assert codes == [0, 0], said


def test_a_rank_whose_place_has_other_data_is_named_with_the_place(tmp_path, homes):
    lacking(homes[1])
    codes, said = trained_in(tmp_path, homes[0] / "images", [{}, {"VOLO_DATA_DIR": str(homes[1] / "images")}])
    assert codes == [2, 2], said
    assert f" in {homes[1] / 'images'} on rank 1. They differ in images and split: 1 only on rank 0" in said[0]
    assert "or have VOLO_DATA_DIR name the right one on a node" in said[0]


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
        pytest.param(
            exchanged,
            ["They differ in images: 2 changed (train/cat/0002.png, train/dog/0003.png); make the folders"],
            marks=pytest.mark.slow,
        ),
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


def test_a_process_that_trains_alone_has_the_data_of_the_one_that_started_it(tmp_path, homes):
    """As a single worker on Ray, on a node other than the driver's; the driver's record may be lost."""
    settings = [small_run(tmp_path, home / "images").resolved() for home in homes]
    data, split = open_data(settings[0])
    seen = seen_here(data, split, settings[0].data)
    alone = single_process("cpu")
    assert len(open_same_data(settings[1], alone, Reference(seen, lambda: data.contents))[0]) == 40
    lacking(homes[1])
    for kept, said in ((data.contents, "split: 1 only where it was started .train/dog/0004.png.;"), (None, "split;")):
        with pytest.raises(InputError, match=f"where the training was started, .* They differ in images and {said}"):
            open_same_data(settings[1], alone, Reference(seen, lambda kept=kept: kept))
    missing(homes[1])
    with pytest.raises(InputError, match=r"rank 0 on .*got no folder"):
        open_same_data(settings[1], alone, Reference(seen, lambda: None))
