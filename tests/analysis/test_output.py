"""The folder of an analysis, whatever becomes of the process that fills it."""

import contextlib
import errno
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from volo.analysis.output import LOCK, MANIFEST, METRICS, RESULTS, held, is_finished, made_aside
from volo.errors import InferenceError, InputError

OF = {"weights": "new"}
OLD = {"report.html": "old page", METRICS: "old", "confusion_matrix.npy": "old", "analysis.json": '{"of": "old"}'}
MINE = {"notes.txt": "mine", ".gitignore": "*"}
NEW = {"report.html": "new page", METRICS: "new", "gradcam.pt": "new"}


def filled(folder: Path, *contents: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for content in contents:
        for name, text in content.items():
            (folder / name).write_text(text)
    return folder


def read(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file() and path.name != LOCK}


def analyzed(folder: Path) -> None:
    with held(folder), made_aside(folder, OF) as aside:
        filled(aside, NEW)


def looked_at_again(folder: Path) -> bool:
    """What the next analysis does first. Whether the complete results are there."""
    with held(folder):
        return is_finished(folder, OF)


def test_new_results_replace_the_old_ones_and_leave_what_is_the_users(tmp_path):
    filled(tmp_path, OLD, MINE)
    (tmp_path / "mine").mkdir()
    analyzed(tmp_path)
    assert {name for name in read(tmp_path)} == {*NEW, *MINE, MANIFEST}
    assert read(tmp_path).items() >= (NEW | MINE).items()
    assert (tmp_path / "mine").is_dir()
    assert is_finished(tmp_path, OF)


def test_nothing_is_in_place_before_all_of_it_is_made(tmp_path):
    filled(tmp_path, OLD, MINE)
    with held(tmp_path), made_aside(tmp_path, OF) as aside:
        filled(aside, NEW)
        assert read(tmp_path) == OLD | MINE


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_results_and_no_trace(tmp_path, error):
    filled(tmp_path / "a", OLD, MINE)
    for folder in ("a", "new"):
        with pytest.raises(error), held(tmp_path / folder), made_aside(tmp_path / folder, OF) as aside:
            filled(aside, NEW)
            raise error
    assert read(tmp_path / "a") == OLD | MINE
    assert [path.name for path in tmp_path.rglob("*") if path.is_dir()] == ["a"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("which", [1, 2])
def test_what_an_error_leaves_while_results_are_put_in_place_the_next_look_completes(
    tmp_path, monkeypatch, error, which
):
    filled(tmp_path, OLD, MINE)
    rename, names = Path.rename, []

    def failing(path: Path, target: Path) -> Path:
        names.append(path.name)
        if len(names) == which:
            raise error
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", failing)
        with pytest.raises(error), held(tmp_path), made_aside(tmp_path, OF) as aside:
            filled(aside, NEW)
    assert looked_at_again(tmp_path)
    assert {name for name in read(tmp_path)} == {*NEW, *MINE, MANIFEST}


@pytest.mark.parametrize("harm", ["another", "a result changed", "a result gone", "no manifest", "half a manifest"])
def test_only_a_whole_analysis_of_the_same_is_finished(tmp_path, harm):
    analyzed(tmp_path)
    of = OF
    match harm:
        case "another":
            of = {"weights": "others"}
        case "a result changed":
            (tmp_path / METRICS).write_text("{}")
        case "a result gone":
            (tmp_path / "report.html").unlink()
        case "no manifest":
            (tmp_path / MANIFEST).unlink()
        case "half a manifest":
            (tmp_path / MANIFEST).write_text((tmp_path / MANIFEST).read_text()[:20])
    assert not is_finished(tmp_path, of)


def analyzed_until(folder: Path, count: int) -> None:
    """Puts an analysis into a folder, and dies before the `count`-th call to the file system that changes it."""

    def note(call: str, args: tuple) -> None:
        nonlocal count
        is_change = call in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.chmod", "ctypes.dlsym")
        if is_change or (call == "open" and args[1] == "w"):
            count -= 1
            if not count:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(note)
    analyzed(folder)


def is_killed(folder: Path, count: int) -> bool:
    """Whether a process comes that far. A plain fork: it only touches files, and there are many."""
    if not (pid := os.fork()):
        with contextlib.suppress(BaseException):
            analyzed_until(folder, count)
            os._exit(0)
        os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.parametrize("others", [{}, MINE], ids=["results alone", "files of the user's"])
def test_a_process_killed_anywhere_leaves_the_old_results_or_the_new_ones(tmp_path, others):
    """Not one of the old results is touched until all of the new ones are made. Beside other files they are put in
    place one by one, and what was made whole is completed by the next look."""
    counts = dict.fromkeys(("untouched", "in between", "in place"), 0)
    for count in range(1, 60):
        folder = filled(tmp_path / str(count) / "a", OLD, others)
        if not is_killed(folder, count):
            break
        left = read(folder)
        finished = looked_at_again(folder)
        assert read(folder) == others | (NEW | {MANIFEST: (folder / MANIFEST).read_text()} if finished else OLD)
        is_untouched = left == OLD | others
        assert finished or is_untouched
        assert [path.name for path in folder.parent.iterdir()] == ["a"]
        assert not [path for path in folder.iterdir() if path.is_dir()]
        counts["untouched" if is_untouched else "in place" if left == read(folder) else "in between"] += 1
    assert counts["untouched"] and counts["in place"], counts
    assert bool(counts["in between"]) == bool(others), counts
    assert count < 59


@pytest.mark.parametrize("others", [{}, MINE], ids=["results alone", "files of the user's"])
def test_two_processes_never_write_to_one_folder(tmp_path, others):
    """Also not while the one puts its results in place, whatever that does to the folder."""
    filled(tmp_path / "a", OLD, others)
    with held(tmp_path / "a"):
        for _ in range(2):
            with pytest.raises(InputError, match="is being written by another analysis"), held(tmp_path / "a"):
                pass
            with made_aside(tmp_path / "a", OF) as aside:
                filled(aside, NEW)
    assert looked_at_again(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("place", ["a link", "the working folder", "mode 0700", "a file that comes late"])
def test_what_the_folder_is_to_others_it_stays(tmp_path, monkeypatch, place):
    folder = filled(tmp_path / "a", OLD)
    match place:
        case "a link":
            (tmp_path / "link").symlink_to("a")
            folder = tmp_path / "link"
        case "the working folder":
            monkeypatch.chdir(folder)
        case "mode 0700":
            folder.chmod(0o700)
    before = folder.stat()
    with held(folder), made_aside(folder, OF) as aside:
        filled(aside, NEW)
        if place == "a file that comes late":
            filled(folder, MINE)
    assert looked_at_again(folder)
    assert folder.stat().st_mode == before.st_mode
    assert folder.is_symlink() == (place == "a link")
    assert place != "the working folder" or Path("report.html").read_text() == "new page"
    assert place != "a file that comes late" or read(folder).items() >= MINE.items()


def test_a_disk_that_refuses_a_result_is_named_and_an_error_of_the_data_stays_what_it_is(tmp_path):
    for path, error in ((tmp_path / "a" / ".analysis.x" / "report.html", InferenceError), (tmp_path / "b", OSError)):
        with pytest.raises(error, match="No space left"), held(tmp_path / "a"):
            raise OSError(errno.ENOSPC, "No space left", str(path))


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match="--output-dir must be a folder that can be written"),
        held(tmp_path / "file"),
    ):
        pass


def test_the_manifest_lists_the_results(tmp_path):
    analyzed(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert manifest["of"] == OF and manifest["files"].keys() == NEW.keys() <= {*RESULTS}
