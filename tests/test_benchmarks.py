"""Benchmarks that take long are resumed: what was measured is not measured again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers.results import chosen
from tests.conftest import draw_folder

ROOT = Path(__file__).parents[1]
FEW = {"train": {"cat": 60, "dog": 60}, "test": {"cat": 8, "dog": 8}}


@pytest.fixture
def images(tmp_path) -> Path:
    return draw_folder(tmp_path / "images", FEW)


@pytest.mark.slow
def test_what_a_gpu_has_to_show_runs_dry_on_a_cpu_and_only_what_is_missing_again(tmp_path, images):
    results = tmp_path / "gpu"

    def run() -> str:
        return subprocess.run(
            ["bash", "benchmarks/gpu.sh", "--dry-run", results], cwd=ROOT, check=True, text=True, capture_output=True,
            env=os.environ | {"DATA": str(images), "PYTHON": sys.executable},
        ).stdout  # fmt: skip

    said = run()
    parts = sorted(path.stem for path in results.glob("*.done"))
    assert len(parts) == 9 and "is done" not in said
    assert json.loads((results / "volo_d1.json").read_text())["figures"]
    (results / "pipeline.done").unlink()
    said = run()
    assert [line.split()[1] for line in said.splitlines() if line.startswith("== ") and "is done" not in line] == [
        "pipeline:"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("size", ["32", "64"])  # shifted, and cut at random
def test_a_race_is_resumed_and_ends_with_its_table(tmp_path, images, size):
    command = [
        sys.executable, "-m", "benchmarks.peers", "--data-dir", images, "--image-size", size, "--minutes", "0.03",
        "--output", tmp_path / "peers",
    ]  # fmt: skip
    [first, again] = (
        subprocess.run(command, cwd=ROOT, check=True, text=True, capture_output=True).stdout for _ in range(2)
    )
    table = [line for line in first.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 7 and all("epochs" in line for line in table[2:])
    assert [line for line in again.splitlines() if line.startswith("|")] == table
    assert "of the test images" in first and "of the" not in again


@pytest.mark.slow
def test_fine_tuning_from_a_run_races_training_from_scratch(tmp_path, images):
    trained = [
        sys.executable, "-m", "volo", "train", "--recipe", "nano", "--dataset", "imagefolder", "--data-dir", images,
        "--epochs", "1", "--batch-size", "32", "--num-workers", "0", "--output-dir", tmp_path, "--run-name", "source",
    ]  # fmt: skip
    subprocess.run(trained, cwd=ROOT, check=True, capture_output=True)
    others = draw_folder(tmp_path / "others", {split: {**classes, "owl": 60} for split, classes in FEW.items()})
    race = [
        sys.executable, "-m", "benchmarks.finetuning", "--weights", tmp_path / "source", "--data-dir", others,
        "--sizes", "64", "--minutes", "0.02", "--seeds", "0", "--output", tmp_path / "races",
    ]  # fmt: skip
    said = subprocess.run(race, cwd=ROOT, check=True, text=True, capture_output=True).stdout
    names = {line.split("|")[1].strip() for line in said.splitlines() if line.startswith("|")}
    assert {"from scratch at 32 pixels", "from scratch at 64 pixels", "fine-tuned at 32 pixels, layer decay 1"} < names


def test_candidates_are_chosen_by_their_names_or_by_beginnings_of_them():
    names = ["ours", "ours, AdamW", "ViT"]
    assert chosen(names, None) == names
    assert chosen(names, ["ViT", "ours"]) == ["ViT", "ours"]
    assert chosen(names, ["our", "ours"]) == ["ours", "ours, AdamW"]
    with pytest.raises(SystemExit, match="got 'CCT'"):
        chosen(names, ["ours", "CCT"])
