"""Predictions over the workers of a cluster: the same table as in one process, also when a worker is lost."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.conftest import ROOT
from tests.conftest import draw_folder
from tests.models import save_model
from volo.analysis.predict import predict_here
from volo.cluster.inference.predict import check_seen
from volo.errors import InputError

pytestmark = pytest.mark.ray

NUM_IMAGES = 43


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = draw_folder(tmp_path_factory.mktemp("images"), {"a": {"x": 30}, "b": {"y": NUM_IMAGES - 30}})
    (folder / "b" / "0000a.png").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("run"), ("cat", "dog", "owl"))


def run(command: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows_of(path: Path) -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file))


@pytest.mark.slow
def test_the_table_is_the_same_on_ray_and_in_process(model, images, head, tmp_path):
    job = ["-m", "jobs.predict", "--checkpoint", str(model), "--input", str(images), "--batch-size", "2"]
    flags = ["--output", str(tmp_path / "ray.csv"), "--num-workers", "2", "--address", head.address]
    run([sys.executable, *job, *flags], head.env)
    predict_here(model, [str(images)], tmp_path / "here.csv", batch_size=2, device="cpu")
    here, there = rows_of(tmp_path / "here.csv"), rows_of(tmp_path / "ray.csv")
    assert len(there) == 1 + NUM_IMAGES
    assert [row[:2] for row in there] == [row[:2] for row in here]
    assert [float(row[2]) for row in there[1:]] == pytest.approx([float(row[2]) for row in here[1:]], abs=1e-5)
    assert (tmp_path / "ray.errors.csv").read_text() == (tmp_path / "here.errors.csv").read_text()


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_no_image_is_lost(model, images, head):
    """The actor is killed from outside, when the first piece has come and most have not."""
    script = (
        "import os, pathlib, signal, sys\n"
        "from volo.analysis.explaining.images import list_images\n"
        "from volo.analysis.predict import Chunk\n"
        "from volo.analysis.subject import load_subject\n"
        "from volo.cluster.connect import connected\n"
        "from volo.cluster.inference.predict import over_workers\n"
        "from volo.cluster.workers import Workers\n"
        "model, images, address, session = sys.argv[1:]\n"
        "paths = [file.path for file in list_images([images]).files]\n"
        "chunks = [Chunk(start, paths[start : start + 2]) for start in range(0, len(paths), 2)]\n"
        "def is_actor(pid):\n"
        "    try:\n"
        "        title = pathlib.Path(f'/proc/{pid}/cmdline').read_bytes()\n"
        "        return title.startswith(b'ray::Predictor') and os.getsid(pid) == int(session)\n"
        "    except OSError:\n"
        "        return False\n"
        "with connected(address):\n"
        "    pieces = over_workers(load_subject(pathlib.Path(model)), chunks, 2, Workers(1, use_gpu=False))\n"
        "    found = [next(pieces)]\n"
        "    [actor] = [int(name) for name in os.listdir('/proc') if name.isdigit() and is_actor(int(name))]\n"
        "    os.kill(actor, signal.SIGKILL)\n"
        "    found += pieces\n"
        "assert sorted(piece.start for piece in found) == [chunk.start for chunk in chunks], found\n"
        "print('images:', sum(len(piece.results) for piece in found))\n"
    )
    printed = run([sys.executable, "-c", script, str(model), str(images), head.address, str(head.session)], head.env)
    assert f"images: {NUM_IMAGES + 1}" in printed


def test_a_node_that_does_not_see_the_images_is_an_error_and_no_list_of_unreadable_files(images):
    check_seen(str(images / "a" / "x" / "0000.png"))
    check_seen(None)
    with pytest.raises(InputError, match="every node must see the images under the same path"):
        check_seen("/nowhere/a.png")
