"""Numbers next to zero, with which some CPUs compute many times as slowly: in training all threads take them for
zero."""

import subprocess
import sys

TRAIN_AND_HALVE = """
import sys
import torch
from volo.cli.train import main

main(sys.argv[1:])
smallest = torch.finfo(torch.float32).tiny
print(int((torch.full((4_000_000,), smallest) / 2).count_nonzero()), "are not zero")
"""
SHORT = ["--model", "quickstart", "--dataset", "imagefolder", "--batch-size", "8", "--max-steps", "1"]


def test_no_thread_of_a_training_computes_with_them(folder, tmp_path):
    given = [*SHORT, "--num-workers", "0", "--data-dir", str(folder), "--output-dir", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", TRAIN_AND_HALVE, *given], capture_output=True, text=True)
    assert done.stdout.endswith("\n0 are not zero\n"), done.stdout + done.stderr
