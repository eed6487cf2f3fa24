"""What was trained in one place is used in another: as in a container that mounts data, outputs and checkpoints."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import draw_folder
from tests.training.runs import small_run, train
from volo.cli import analyze, predict
from volo.cli.outcome import exit_code
from volo.runs import checkpoint
from volo.runs.records import read_records

FORMS = {
    "run": "checkpoints/run",
    "best": "checkpoints/run/best",
    "checkpoint": "checkpoints/step",
    "safetensors": "checkpoints/model.safetensors",
    "pt": "checkpoints/model.pt",
}


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> tuple[Path, list[dict]]:
    """/app, so to speak: checkpoints and data copied there, the originals gone; and the records of the run."""
    before, app = tmp_path_factory.mktemp("before"), tmp_path_factory.mktemp("app")
    counts = {"cat": 40, "dog": 40}
    images = draw_folder(before / "images", {"train": counts, "test": dict.fromkeys(counts, 9)})
    run_dir = train(small_run(before, images, optim=dict(epochs=1)))
    best, records = checkpoint.find(run_dir), read_records(run_dir)
    shutil.copytree(images, app / "data" / "pets")
    shutil.copytree(run_dir, app / FORMS["run"])
    shutil.copytree(best, app / FORMS["checkpoint"])
    shutil.copy(best / checkpoint.MODEL, app / FORMS["safetensors"])
    checkpoint.export_pt(best, app / FORMS["pt"])
    shutil.rmtree(before)
    return app, records


@pytest.fixture
def run(app, monkeypatch, capsys):
    """Runs a job as a container would: in /app, by relative paths, its cache empty. Gives what was printed."""
    folder, _ = app
    monkeypatch.chdir(folder)
    monkeypatch.setenv("VOLO_CACHE_DIR", str(folder / "cache"))

    def run(job, *flags: str) -> list[str]:
        capsys.readouterr()
        code = exit_code(job.main, [*flags, "--num-workers", "0"])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return printed.out.splitlines()

    return run


@pytest.mark.parametrize("form", ["run", "safetensors", "pt"])
def test_a_copied_checkpoint_is_analyzed_on_data_that_are_elsewhere_too(app, run, form):
    output = app[0] / "outputs" / form
    analysis = ("--analysis", "eval", "confusion", "--no-show", "--output-dir", f"outputs/{form}")
    printed = run(analyze, "--checkpoint", FORMS[form], "--data-dir", "data/pets", *analysis)
    assert printed[-1] == f"report: {output / 'report.html'}"
    metrics = json.loads((output / "eval_metrics.json").read_text())
    assert (metrics["split"], metrics["num_samples"]) == ("test", 18)


def test_the_validation_images_are_found_again_by_their_split(app, run):
    analysis = ("--analysis", "eval", "--split", "val", "--no-show", "--output-dir", "outputs/val")
    run(analyze, "--checkpoint", FORMS["checkpoint"], "--data-dir", "data/pets", *analysis)
    metrics = json.loads((app[0] / "outputs" / "val" / "eval_metrics.json").read_text())
    [epoch] = [record for record in app[1] if record["kind"] == "epoch"]
    assert metrics["acc1"] == epoch["val/acc1"]
    assert metrics["loss"] == pytest.approx(epoch["val/loss"], rel=1e-5)


@pytest.mark.parametrize("form", ["best", "pt"])
def test_a_copied_checkpoint_predicts(app, run, form):
    run(predict, "--checkpoint", FORMS[form], "--input", "data/pets/test", "--output", f"{form}.csv")
    with open(app[0] / f"{form}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert (len(rows), rows[0]["path"]) == (18, "data/pets/test/cat/0000.png")
