"""Folders in the temporary folder of all users: nothing there is believed because of its name."""

import multiprocessing
import os
import re
import stat
import tempfile
from pathlib import Path

import pytest

from volo.data.decoded.cache import cache_dir
from volo.temporary import own_folder

ROOT = Path(__file__).parents[1]


@pytest.fixture
def shared(tmp_path, monkeypatch) -> Path:
    """The temporary folder of all users."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def link(path: Path) -> None:
    path.with_name("elsewhere").mkdir()
    path.symlink_to(path.with_name("elsewhere"))


def dead_link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def open_to_all(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def open_to_the_group(path: Path) -> None:
    path.mkdir()
    path.chmod(0o770)


def another_users(path: Path) -> None:
    path.mkdir(0o755)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    else:
        path.chmod(0o777)  # only root can give a folder away


PLANTED = [link, dead_link, open_to_all, open_to_the_group, another_users, Path.touch]


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_what_another_user_has_made_beforehand_is_left_alone(shared, plant, caplog):
    planted = shared / f"volo-cache-{os.geteuid()}"
    plant(planted)
    before = sorted(shared.iterdir())
    used = own_folder("volo-cache")
    assert used not in before
    assert (stat.S_IMODE(used.lstat().st_mode), used.lstat().st_uid) == (0o700, os.geteuid())
    assert f"{planted} is not a folder of this user alone; using {used} instead" in caplog.messages
    (used / "images").mkdir()
    assert [own_folder("volo-cache") for _ in range(3)] == [used] * 3
    assert sorted(shared.iterdir()) == sorted([*before, used])
    assert [*shared.glob("elsewhere/*"), *shared.glob("nowhere")] == []


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_cache_without_a_home_is_in_a_folder_of_its_user(shared, plant, monkeypatch):
    monkeypatch.delenv("VOLO_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/none")
    planted = shared / f"volo-cache-{os.geteuid()}"
    assert cache_dir() == planted
    planted.rmdir()
    plant(planted)
    assert planted not in (cache_dir(), cache_dir().resolve())
    assert stat.S_IMODE(cache_dir().stat().st_mode) == 0o700


def test_what_this_user_made_is_closed_to_others_and_used(shared):
    own = shared / f"volo-cache-{os.geteuid()}"
    own.mkdir(0o755)
    assert own_folder("volo-cache") == own
    assert stat.S_IMODE(own.stat().st_mode) == 0o700


def test_processes_that_start_together_use_one_folder(shared):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert set(pool.map(own_folder, ["volo-cache"] * 8)) == {shared / f"volo-cache-{os.geteuid()}"}


def test_no_other_module_knows_a_name_in_the_temporary_folder():
    """Everything else asks for a folder of its own there, or says which folder a temporary file goes to."""
    named = re.compile(
        r"gettempdir|tempfile\.tempdir|[\"']/tmp|(?:mkdtemp|TemporaryDirectory|TemporaryFile)\((?!.*dir=)"
    )
    files = [path for name in ("volo", "jobs") for path in (ROOT / name).rglob("*.py")]
    found = {str(path.relative_to(ROOT)) for path in files if named.search(path.read_text())}
    # The second makes folders of its own there, the third one with a random name, whatever the place.
    assert found == {"volo/temporary.py", "volo/cluster/folder.py", "volo/cli/tune.py"}
