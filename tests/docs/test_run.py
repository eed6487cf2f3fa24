"""The commands of README and site are run, page by page and in their order, each page in a fresh folder.

They are scaled down: `SMALLER` is put behind a command's own flags, and the last value of a flag counts. So a training
takes two steps on tiny photographs, whatever data set the page names. What cannot run here is in `NOT_RUN`, with the
reason; it is parsed in test_commands.py.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import draw_folder
from tests.docs.commands import Command, command_in
from tests.docs.pages import ROOT, SITE, blocks, python_of, shell_lines, words_of
from tests.training.runs import small_run, train
from volo.errors import ExitCode
from volo.settings.config import build_settings

TINY = ("--dataset", "imagefolder", "--data-dir", "data/mine")
CPU = ("--device", "cpu")
FEW = ("--train-images", "104", "--batch-size", "8")  # a stem is whitened by a hundred
SMALLER = {
    "train": (*CPU, *FEW, "--max-steps", "2", "--num-workers", "0"),
    "pipeline": (*CPU, *FEW, "--epochs", "1", "--num-workers", "1"),
    "tune": (*CPU, *FEW, "--epochs", "2", "--num-samples", "2", "--max-concurrent", "1"),
    "analyze": (*CPU, "--num-workers", "0"),
    "predict": (*CPU, "--num-workers", "0"),
    "doctor": ("--num-workers", "0"),
}
NOT_RUN = {
    "--address": "needs a cluster: tests/cluster",
    "s3://": "needs a server: tests/cluster/test_object_storage.py",
    "volo_d1_224": "needs a network: tests/runs/test_remote.py",
    "--token-labels": "needs a minute: tests/outcomes/test_teaching_gains.py",
    "--confirm-top": "needs minutes: tests/tuning/test_confirm.py",
    "--winner-epochs": "needs minutes: tests/tuning/test_pipeline.py",
    "--in-chans 5": "needs stacks: tests/training/test_channels.py",
    "volo.onnx": "exported in test_snippets.py",
}
# Runs that a page presupposes: made by other pages, or by the reader.
PRESUPPOSED = {
    "README.md": ("quickstart",),
    "docs/analysis.md": ("mine",),
    "docs/export.md": ("quickstart",),
    "docs/models.md": ("mine", "small"),
    "docs/reliability.md": ("best",),
    "docs/tutorial.md": ("quickstart",),
}
RUNNING = [page for page in ("README.md", *SITE) if any(b.language == "sh" for b in blocks(page))]


def commands(page: str) -> list[Command]:
    lines = [line for block in blocks(page) if block.language == "sh" for line in shell_lines(block)]
    found = [(line, command_in(words_of(line))) for line in lines]
    return [
        command
        for line, command in found
        if command and command.behind is None and not any(part in line for part in NOT_RUN)
    ]


def scaled(command: Command) -> list[str]:
    argv = list(command.argv)
    takes_data = command.name in ("train", "pipeline", "tune", "doctor")
    is_drawn = "quickstart" in argv and "--dataset" not in argv
    data = () if not takes_data or is_drawn else TINY
    return [*argv, *data, *SMALLER.get(command.name, ())]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The run folder of a `nano`, which the pages take for "mine", and beside it the photographs it was trained on."""
    root = tmp_path_factory.mktemp("trained")
    counts = {"cat": 44, "dog": 44, "owl": 44}
    images = draw_folder(root / "data", {"train": counts, "test": dict.fromkeys(counts, 4)})
    nano = dict(variant="nano", embed_dim=96, stem_channels=(48, 96))
    return train(small_run(root, images, model=nano, optim=dict(epochs=1)))


@pytest.fixture
def reader(tmp_path, trained, request) -> Path:
    """A reader's folder: photographs in data/, more in photos/, and the runs that the page presupposes."""
    images = trained.parents[1] / "data"
    shutil.copytree(images, tmp_path / "data" / "mine")
    shutil.copytree(images / "test", tmp_path / "data" / "other")
    shutil.copytree(images / "test" / "cat", tmp_path / "photos")
    for name in PRESUPPOSED.get(request.node.callspec.params["page"], ()):
        shutil.copytree(trained, tmp_path / "outputs" / name)
    (tmp_path / "my.yaml").write_text(build_settings({"model": {"variant": "quickstart"}}).to_yaml())
    (tmp_path / "my_space.py").write_text(next(code for code in python_of("docs/tuning.md") if "def space" in code))
    return tmp_path


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("page", [page for page in RUNNING if commands(page)])
def test_the_commands_of_a_page_run_one_after_the_other(page, reader):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    env.pop("RAY_ADDRESS", None)
    for command in commands(page):
        argv = [sys.executable, "-m", "volo", command.name, *scaled(command)]
        done = subprocess.run(argv, cwd=reader, env=env, capture_output=True, text=True)
        is_right = done.returncode in (ExitCode.DONE, ExitCode.DIFFERENT)
        assert is_right, f"{page}: {' '.join(argv[2:])}\n{done.stdout}\n{done.stderr}"


def test_what_is_not_run_is_in_some_line():
    """Otherwise an entry of the table would hide what is added later."""
    lines = [line for page in RUNNING for block in blocks(page) for line in shell_lines(block)]
    assert [part for part in NOT_RUN if not any(part in line for line in lines)] == []
