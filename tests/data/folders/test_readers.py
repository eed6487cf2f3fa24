"""Images read by processes: the same ones, in order, whatever happens to a process."""

import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import draw_folder
from volo.data.folders.image import read_image
from volo.data.folders.readers import read_images

SIZE, COUNT = 16, 300  # more than one process reads alone

# Reads some of many images, names its processes, and waits to be killed.
READER = """
import multiprocessing, sys
from volo.data.folders.readers import read_images
images = read_images(sys.argv[1:] * 8, 16, "crop", 2)
next(images)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
sys.stdin.read()
for _ in images:
    pass
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """Images, two of which cannot be read."""
    root = draw_folder(tmp_path_factory.mktemp("many"), {"train": {"cat": COUNT}}, size=20)
    found = sorted(root.rglob("*.png"))
    found[7].write_bytes(b"no image")
    found[200].write_bytes(found[200].read_bytes()[:60])
    return list(map(str, found))


def check(read: list[np.ndarray | str], files: list[str]) -> None:
    assert [place for place, image in enumerate(read) if isinstance(image, str)] == [7, 200]
    for place in (0, 63, 64, 128, COUNT - 1):
        assert np.array_equal(read[place], read_image(files[place], SIZE))


@pytest.mark.parametrize("num_processes", [1, 2, 5])
def test_any_number_of_processes_reads_the_same_in_order_and_says_what_cannot_be_read(files, num_processes):
    check(list(read_images(files, SIZE, "crop", num_processes)), files)


def test_few_images_start_no_process(files):
    before = multiprocessing.active_children()
    images = read_images(files[:200], SIZE, "crop", 2)
    next(images)
    assert multiprocessing.active_children() == before


def exit_code(process: multiprocessing.Process) -> int:
    """Once it has ended. The pool's own thread waits for it too; whoever comes second hears of it a moment later."""
    assert wait([process.sentinel], 30)
    for _ in range(3000):
        if process.exitcode is not None:
            break
        wait([], 0.01)
    return process.exitcode


def test_what_a_killed_process_leaves_is_read_here(files, caplog):
    many, before = files * 4, multiprocessing.active_children()
    images = read_images(many, SIZE, "crop", 2)
    read = [next(images) for _ in range(10)]
    readers = [child for child in multiprocessing.active_children() if child not in before]
    os.kill(readers[0].pid, signal.SIGKILL)
    read += images
    assert {exit_code(process) for process in readers} == {-signal.SIGKILL, -signal.SIGTERM}
    assert len(read) == len(many)
    for start in range(0, len(many), COUNT):
        check(read[start : start + COUNT], files)
    assert "a process that decodes images was killed" in caplog.text


def test_who_stops_early_leaves_no_process(files):
    before, images = multiprocessing.active_children(), read_images(files * 4, SIZE, "crop", 2)
    next(images)
    processes = [child for child in multiprocessing.active_children() if child not in before]
    assert processes
    images.close()
    assert {exit_code(process) for process in processes} == {0}


def reader(files: list[str]) -> tuple[subprocess.Popen, list[int]]:
    started = subprocess.Popen(
        [sys.executable, "-c", READER, *files], cwd=Path(__file__).parents[3], start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    return started, list(map(int, started.stdout.readline().split()))


def test_processes_end_with_the_one_that_started_them(files):
    """They hold its standard error, which ends when the last of them does."""
    started, children = reader(files)
    assert len(children) == 2
    started.kill()
    _, said = started.communicate(timeout=60)
    assert said == ""


@pytest.mark.parametrize(("name", "says"), [(signal.SIGINT, ""), (signal.SIGHUP, ""), (signal.SIGTERM, "was killed")])
def test_what_is_needed_is_read_whatever_signal_all_processes_get(files, name, says):
    """The first decides what to do; one that goes on, as a training that first saves, still gets its images."""
    started, children = reader(files)
    for child in children:
        os.kill(child, name)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 0 and says in said and "Traceback" not in said
    assert bool(said) == bool(says)
