"""What `volo doctor` says of the answers of a cluster's nodes: versions, data, clocks, room."""

import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from ray import cloudpickle

from tests.cluster.conftest import ROOT
from tests.conftest import draw_folder
from volo.cluster.nodes.alike import (
    compared_clocks,
    compared_data,
    compared_versions,
    data_of,
    differences_from,
    offset,
    versions_question,
)
from volo.cluster.nodes.asking import Answer, Node
from volo.cluster.nodes.room import NodeRoom, judged_rooms, room_of
from volo.data.decoded.cache import Room
from volo.doctor.data import contents_here
from volo.settings.config import build_settings
from volo.settings.data import ResolvedData
from volo.training.guards.same_data import REMEDY

ONE, TWO = (Node(f"id of {name}", name, name, 4, 0, name == "10.0.0.1") for name in ("10.0.0.1", "10.0.0.2"))
SILENT = Answer(None, "did not answer within 8 s", 0.0, 0.0)


def told(value: object, asked: float = 100.0, answered: float = 100.5) -> Answer:
    return Answer(value, "", asked, answered)


VERSIONS = {"python": "3.11", "torch": "2.14.1", "ray": "2.60.0", "volo": "0.1.0 of sources 0123abcd"}


@pytest.mark.parametrize(
    ("there", "status", "said"),
    [
        (VERSIONS, "ok", "the same on 2 nodes: python 3.11, torch 2.14.1, ray 2.60.0, volo 0.1.0 of sources 0123abcd"),
        (VERSIONS | {"torch": "2.13.0"}, "warning", "10.0.0.2 has torch 2.13.0 where this machine has 2.14.1"),
        (VERSIONS | {"python": "3.12"}, "failure", "10.0.0.2 has python 3.12 where this machine has 3.11"),
        (
            VERSIONS | {"volo": "none"},
            "failure",
            f"10.0.0.2 has volo none where this machine has {VERSIONS['volo']}",
        ),
        (None, "failure", "10.0.0.2 did not answer within 8 s"),
    ],
)
def test_a_node_of_other_versions_is_named(there, status, said):
    answers = {ONE: told(VERSIONS), TWO: told(there) if there else SILENT}
    found = compared_versions(VERSIONS, answers)
    assert (found.check, found.status, found.found) == ("node versions", status, said)


def test_the_question_is_answered_by_a_process_with_another_version_of_the_code(tmp_path):
    """There the module that asks is broken on purpose: the question brings its own code."""
    question = tmp_path / "question"
    question.write_bytes(cloudpickle.dumps(versions_question()))
    shutil.copytree(ROOT / "volo", tmp_path / "same" / "volo", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(tmp_path / "same", tmp_path / "edited")
    (tmp_path / "edited" / "volo" / "cluster" / "nodes" / "alike.py").write_text("raise RuntimeError\n")
    code = "import pickle, sys; sys.path.insert(0, sys.argv[1]); print(pickle.load(open(sys.argv[2], 'rb'))()['volo'])"

    def version_in(folder: str) -> str:
        command = [sys.executable, "-c", code, str(tmp_path / folder), str(question)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    own = versions_question()()["volo"]
    assert own.startswith("0.1.0 of sources ")
    assert version_in("same") == own
    assert version_in("edited") != own


def data_settings(folder: Path) -> ResolvedData:
    return build_settings({"data": dict(dataset="imagefolder", data_dir=str(folder))}).resolved().data


@pytest.fixture
def homes(tmp_path) -> tuple[Path, Path]:
    """Two equal folders."""
    draw_folder(tmp_path / "one", {"train": {"cat": 20, "dog": 20}})
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    return tmp_path / "one", tmp_path / "two"


def test_a_node_whose_images_differ_is_named_with_what_differs(homes, monkeypatch):
    here = data_settings(homes[0])
    own, same = data_of(here.model_dump()), data_of(here.model_dump())
    assert compared_data(own, {ONE: told(own), TWO: told(same)}, {}).found == (
        "the same on 2 nodes: 40 images of 2 classes (36 to train on, 4 to validate)"
    )
    monkeypatch.setenv("VOLO_DATA_DIR", str(homes[1]))
    copy = data_of(here.model_dump())
    found = compared_data(own, {ONE: told(own), TWO: told(copy)}, {})
    assert (found.status, found.found.partition("; ")[2]) == ("ok", f"in {homes[1]} on 10.0.0.2")
    (homes[1] / "train" / "dog" / "0004.png").unlink()
    other = data_of(here.model_dump())
    words = differences_from(here.model_dump(), compressed(homes[0], monkeypatch))
    found = compared_data(own, {ONE: told(own), TWO: told(other)}, {TWO: words})
    assert found.status == "failure" and found.remedy == REMEDY
    assert found.found == (
        f"10.0.0.2 has 39 images of 2 classes (36 to train on, 3 to validate) in {homes[1]} where this machine has 40 "
        "images of 2 classes (36 to train on, 4 to validate); they differ in images and split: 1 only here "
        "(train/dog/0004.png)"
    )


def compressed(folder: Path, monkeypatch) -> bytes:
    with monkeypatch.context() as patch:
        patch.delenv("VOLO_DATA_DIR")
        return zlib.compress(contents_here(data_settings(folder)).text)


def test_a_node_without_the_data_fails_and_one_that_takes_long_is_only_warned_of(homes):
    own = data_of(data_settings(homes[0]).model_dump())
    refused = data_of(data_settings(homes[0] / "nowhere").model_dump())
    found = compared_data(own, {ONE: told(own), TWO: told(refused)}, {})
    assert (found.status, found.found.startswith("10.0.0.2: ")) == ("failure", True)
    found = compared_data(own, {ONE: told(own), TWO: SILENT}, {})
    assert (found.status, found.found) == ("warning", "10.0.0.2 did not answer within 8 s")


def test_an_archive_that_a_node_has_not_downloaded_yet_is_no_difference(tmp_path):
    data = build_settings({"data": dict(dataset="cifar100", data_dir=str(tmp_path))}).resolved().data
    own = data_of(data.model_dump())
    found = compared_data(own, {ONE: told(own)}, {})
    assert found.status == "ok" and "no cifar100 yet, which a training downloads" in found.found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("clock", "ahead"),
    [(100.2, 0.0), (99.8, -0.2), (101.0, 0.5), (161.0, 60.5), (40.0, -60.0)],
)
def test_a_clock_is_off_by_no_less_than_the_time_of_the_answer_explains(clock, ahead):
    assert offset(told(clock)) == pytest.approx(ahead)


def test_clocks_that_are_off_are_a_warning_that_says_what_they_matter_for():
    found = compared_clocks({ONE: told(100.1), TWO: told(161.0)})
    assert (found.status, found.found) == ("warning", "10.0.0.2 is at least 60 s ahead of this machine")
    assert found.remedy.startswith("set them (chrony, ntpd): training needs no clock, but times in logs")
    found = compared_clocks({ONE: told(100.1), TWO: SILENT})
    assert (found.status, found.found) == ("ok", "at most 0.4 s off this machine's")


def roomy(free: int) -> NodeRoom:
    return NodeRoom(Room(Path("/cache"), 10, 1000, free), "/outputs", 500, free, "4 checkpoints of 125 B")


def test_the_fullest_of_the_nodes_disks_is_told():
    caches, disks = judged_rooms({ONE: told(roomy(10**6)), TWO: told(roomy(600))})
    assert (caches.status, disks.status) == ("failure", "warning")
    assert disks.found.startswith("fullest of 2, on 10.0.0.2: 600 B free at /outputs, 500 B needed for 4 checkpoints")
    [found] = judged_rooms({ONE: told(roomy(10**6)), TWO: SILENT})
    assert (found.status, found.found) == ("failure", "10.0.0.2 did not answer within 8 s")


def test_what_is_decoded_onto_the_disk_of_the_checkpoints_counts_there_too(homes, tmp_path, monkeypatch):
    monkeypatch.setenv("VOLO_CACHE_DIR", str(tmp_path / "cache"))
    values = {
        "data": dict(dataset="imagefolder", data_dir=str(homes[0])),
        "run": dict(output_dir=str(tmp_path / "outputs")),
    }
    room = room_of(build_settings(values).to_dict())
    assert room.in_words.endswith(", and the cache")
    assert room.needed > room.cache.needed == 40 * 32 * 32 * 3
    values["data"]["data_dir"] = str(tmp_path / "nowhere")
    assert "got no folder" in room_of(build_settings(values).to_dict())
