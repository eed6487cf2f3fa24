"""Numbers next to zero, with which some CPUs compute many times as slowly: no thread of a command works with them."""

import subprocess
import sys

import pytest

from tests.models import save_model

RUN_AND_HALVE = """
import importlib
import sys
import torch

importlib.import_module("volo.cli." + sys.argv[1]).main(sys.argv[2:])
smallest = torch.finfo(torch.float32).tiny
print(int((torch.full((4_000_000,), smallest) / 2).count_nonzero()), "are not zero")
"""
TRAIN = ["train", "--model", "quickstart", "--dataset", "imagefolder", "--batch-size", "8", "--max-steps", "1"]
PREDICT = ["predict", "--checkpoint", "run", "--output", "predictions.csv"]
ANALYZE = ["analyze", "--checkpoint", "run", "--analysis", "eval", "--no-show"]


@pytest.mark.parametrize("command", [TRAIN, PREDICT, ANALYZE], ids=lambda command: command[0])
def test_no_thread_computes_with_them(folder, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "run", ("cat", "dog"), data_dir=str(folder))
    images = ["--input" if command is PREDICT else "--data-dir", str(folder)]
    flags = [*command, *images, "--num-workers", "0"]
    done = subprocess.run([sys.executable, "-c", RUN_AND_HALVE, *flags], capture_output=True, text=True)
    assert done.stdout.endswith("\n0 are not zero\n"), done.stdout + done.stderr
