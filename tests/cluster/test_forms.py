"""Every form of the model under every launcher: trained, resumed in mid-epoch, analyzed."""

import json
import sys
from pathlib import Path

import pytest

from tests.cluster.test_launchers import run, torchrun_command, train_command
from tests.conftest import draw_folder
from tests.training.runs import losses
from volo.cli import analyze, train
from volo.cli.outcome import exit_code

FORMS = {
    "mean": [],
    "cls": ["--pooling", "cls"],
    "cli": ["--pooling", "cli"],
    "map": ["--hierarchical", "--downsample-kind", "map"],
    "token": ["--hierarchical", "--downsample-kind", "token"],
    "published": [
        *["--model", "volo_d1", "--patch-size", "4", "--stem-dim", "8", "--layers", "1", "1", "1", "1"],
        *["--embed-dims", "16", "32", "--stage-heads", "2", "4", "--drop-path-rate", "0.1"],
    ],
}
LAUNCHERS = ("one process", "torchrun", "ray")
# Flat mean runs under all three in test_launchers.py.
QUICK = {("token", "one process")}


def combinations() -> list:
    pairs = [(form, launcher) for form in FORMS for launcher in LAUNCHERS]
    marks = {"ray": [pytest.mark.ray], "torchrun": [], "one process": []}
    return [
        pytest.param(form, launcher, marks=marks[launcher] + [pytest.mark.slow] * ((form, launcher) not in QUICK))
        for form, launcher in pairs
    ]


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    """Ten steps, five an epoch, of noise around three colours."""
    folder = tmp_path_factory.mktemp("forms")
    counts = dict.fromkeys(("cat", "dog", "owl"), 30)
    images = draw_folder(folder / "images", {"train": counts, "test": dict.fromkeys(counts, 5)})
    settings = {
        "model": {"variant": "quickstart"},
        "data": {"dataset": "imagefolder", "data_dir": str(images), "val_fraction": 0.2},
        "optim": {"epochs": 2, "batch_size": 14},
        "run": {"output_dir": str(folder / "outputs"), "log_every": 1},
    }
    (folder / "config.json").write_text(json.dumps(settings))  # JSON is YAML
    return folder / "config.json"


@pytest.mark.parametrize(("form", "launcher"), combinations())
def test_a_form_trains_resumes_and_analyzes_under_a_launcher(form, launcher, config, request, capfd, tmp_path):
    head = request.getfixturevalue("head") if launcher == "ray" else None
    env = request.getfixturevalue("ray_env")
    name = f"{form}-{launcher}".replace(" ", "-")
    workers = {"one process": ["--num-workers", "0"], "torchrun": [], "ray": ["--num-workers", "2"]}[launcher]
    workers = [*workers, "--address", head.address] if head else workers

    def trained(*flags: str) -> str:
        flags = (*FORMS[form], "--run-name", name, *workers, *flags)
        if launcher == "one process":
            assert exit_code(train.main, ["--config", str(config), *flags]) == 0
            return capfd.readouterr().out
        command = torchrun_command if launcher == "torchrun" else train_command
        done = run(command(config, *flags), env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    trained("--max-steps", "7")
    assert "resuming at step 7" in trained()
    run_dir = config.parent / "outputs" / name
    assert list(losses(run_dir)) == list(range(1, 11))

    flags = ["--checkpoint", str(run_dir), "--output-dir", str(tmp_path), "--no-show"]
    if head:
        done = run([sys.executable, "-m", "jobs.analyze", *flags, *workers], env)
        assert done.returncode == 0, done.stdout + done.stderr
    else:
        assert exit_code(analyze.main, [*flags, "--num-workers", "0"]) == 0
    assert json.loads((tmp_path / "eval_metrics.json").read_text())["num_samples"] == 15
    made = {path.name for path in tmp_path.iterdir()}
    assert {"report.html", "gradcam.pt", "occlusion_heatmap.pt", "confusion_matrix.npy"} <= made
