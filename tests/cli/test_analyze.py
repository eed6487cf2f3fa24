"""jobs.analyze from the command line, in this process: what it writes, takes and refuses."""

import json
import os
import re
import shutil
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import draw_folder
from tests.faults.tools.forked import FORKS, ended
from tests.faults.tools.kills import files_limited_to
from tests.models import save_model
from tests.training.runs import small_run
from tests.training.runs import train as train_run
from volo.analysis.output import LOCK, OWN
from volo.analysis.steps import STEPS
from volo.cli import analyze
from volo.cli.outcome import exit_code
from volo.data.splits import split_train
from volo.runs import checkpoint
from volo.runs.records import read_records

COUNTS = {"cat": 30, "<b>dog": 30}
FILES = {
    "eval_metrics.json", "confusion_matrix.npy", "confusion_matrix.png", "calibration_stats.npz",
    "reliability_before.png", "reliability_after.png", "gradcam.pt", "gradcam_overlay.png", "occlusion_heatmap.pt",
    "occlusion_heatmap.png", "predictions_grid.png", "predictions.csv", "learning_curves.png",
    "report.html", "analysis.json", LOCK,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run folder, its images beside it."""
    folder = tmp_path_factory.mktemp("trained")
    images = draw_folder(folder / "images", {"train": COUNTS, "test": dict.fromkeys(COUNTS, 8)})
    return train_run(small_run(folder, images))


def analyzed(*flags: str) -> int:
    return exit_code(analyze.main, [*flags, "--num-workers", "0", "--no-show"])


def metrics(folder: Path) -> dict:
    return json.loads((folder / "eval_metrics.json").read_text())


def test_all_six_analyzes_write_all_that_they_name(trained, tmp_path, capsys):
    output = tmp_path / "a"
    assert analyzed("--checkpoint", str(trained), "--output-dir", str(output)) == 0
    assert {path.name for path in output.iterdir()} == FILES
    assert {*OWN} >= FILES  # otherwise a later analysis would not replace them
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {output / 'report.html'}"
    page = (output / "report.html").read_text()
    assert "<b>" not in page
    assert "&lt;b&gt;dog" in page and "last_map" in page
    assert page.count("data:image/png;base64,") == 5 + 3 * 12  # pictures; input, Grad-CAM and occlusion of 12 images


def test_metrics_are_flat_but_for_the_classes(trained, tmp_path):
    assert analyzed("--checkpoint", str(trained), "--output-dir", str(tmp_path), "--analysis", "eval") == 0
    found = metrics(tmp_path)
    assert found.keys() == {
        "split", "num_samples", "loss", "acc1", "balanced_acc1", "acc5", "nll", "brier", "ece", "mce", "ece_by_chance",
        "coverage", "per_class", "per_class_precision", "per_class_f1", "per_class_images",
    }  # fmt: skip
    assert found["per_class"].keys() == COUNTS.keys()
    assert np.mean(list(found["per_class"].values())) == pytest.approx(found["acc1"])
    assert found["nll"] == found["loss"]


def test_metrics_after_temperature_scaling_are_those_of_the_scaled_logits(trained, tmp_path):
    assert analyzed("--checkpoint", str(trained), "--output-dir", str(tmp_path), "--analysis", "calibration") == 0
    found = metrics(tmp_path)
    with np.load(tmp_path / "calibration_stats.npz") as arrays:
        kept = {name: float(arrays[name]) for name in arrays if name.endswith("_after") and arrays[name].ndim == 0}
        assert found["temperature"] == float(arrays["temperature"]) != 1
    assert len(kept) == 5 and {name: found[name] for name in kept} == kept
    assert found["nll_after"] != found["nll"]


def test_explanations_are_read_without_running_code_and_name_their_layer(trained, tmp_path):
    flags = ("--checkpoint", str(trained), "--output-dir", str(tmp_path), "--analysis", "gradcam", "occlusion")
    assert analyzed(*flags) == 0
    gradcam, occlusion = (
        torch.load(tmp_path / name, weights_only=True) for name in ("gradcam.pt", "occlusion_heatmap.pt")
    )
    assert gradcam["layer"] == "last_map" and gradcam["maps"].shape == (12, 8, 8)
    assert occlusion["window"] == [6, 6] and occlusion["maps"].shape == (12, 6, 6)
    for found in (gradcam, occlusion):
        assert found["heatmaps"].shape == (12, 32, 32)
        assert found["class_names"] == sorted(COUNTS) and len(found["scored"]) == 0
        assert (found["labels"] == torch.tensor([0] * 8 + [1] * 8)[found["indices"]]).all()
    assert {path.name for path in tmp_path.iterdir()} == {
        "gradcam.pt", "gradcam_overlay.png", "occlusion_heatmap.pt", "occlusion_heatmap.png", "learning_curves.png",
        "report.html", "analysis.json", LOCK,
    }  # fmt: skip


def test_only_the_analyzes_asked_for_are_made(trained, tmp_path):
    flags = ("--checkpoint", str(trained / "last"), "--analysis", "confusion", "--output-dir", str(tmp_path / "a"))
    assert analyzed(*flags) == 0
    assert {path.suffix for path in (tmp_path / "a").iterdir()} == {".npy", ".png", ".html", ".json", ".lock"}


def test_what_is_printed_and_left_is_of_this_analysis(trained, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    flags = ("--checkpoint", str(trained), "--output-dir", str(tmp_path))
    assert analyzed(*flags, "--analysis", "eval", "confusion") == 0
    assert "test: top-1" in capsys.readouterr().out
    assert analyzed(*flags, "--analysis", "calibration") == 0
    assert "top-1" not in capsys.readouterr().out
    assert not (tmp_path / "confusion_matrix.npy").exists()
    assert (tmp_path / "notes.txt").exists()


def test_the_validation_split_is_the_one_of_training(trained, tmp_path):
    flags = ("--checkpoint", str(trained / "last"), "--split", "val", "--output-dir", str(tmp_path))
    assert analyzed(*flags, "--analysis", "eval") == 0
    found = metrics(tmp_path)
    expected = [record for record in read_records(trained) if record["kind"] == "epoch"][-1]
    assert found["num_samples"] == 12
    assert found["acc1"] == expected["val/acc1"]
    assert found["loss"] == pytest.approx(expected["val/loss"], rel=1e-5)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Of each file its bytes, and the number that tells it from another of the same name and bytes."""
    return {path.name: (path.read_bytes(), path.stat().st_ino) for path in folder.iterdir()}


def test_a_finished_analysis_says_so_and_is_left_as_it_is(trained, tmp_path, capsys):
    flags = ("--checkpoint", str(trained), "--output-dir", str(tmp_path), "--analysis", "eval", "calibration")
    assert analyzed(*flags) == 0
    before = contents(tmp_path)
    first = capsys.readouterr().out.splitlines()
    assert analyzed(*flags) == 0
    again = capsys.readouterr().out.splitlines()
    assert contents(tmp_path) == before
    assert again[-3:] == [
        f"this analysis is finished, in {tmp_path}; volo analyze --fresh repeats it", *first[-2:],
    ]  # fmt: skip
    assert analyzed(*flags, "--fresh") == 0
    assert {name: of[0] for name, of in contents(tmp_path).items()} == {name: of[0] for name, of in before.items()}
    assert contents(tmp_path)["report.html"][1] != before["report.html"][1]


@pytest.mark.parametrize("change", ["checkpoint", "split", "analyses", "test images", "validation images", "a result"])
def test_an_analysis_of_anything_else_is_made(tmp_path, change, capsys):
    counts = {"train": COUNTS, "test": dict.fromkeys(COUNTS, 4)}
    images, names = draw_folder(tmp_path / "images", counts), tuple(sorted(COUNTS))
    data = dict(data_dir=str(images), val_fraction=0.2)
    split = split_train(np.repeat(np.arange(2), 30), 0.2, seed=0).digest()
    path = save_model(tmp_path / "run", names, split_hash=split, **data)
    analyses, more = ("eval", "calibration"), ()
    flags = ("--output-dir", str(tmp_path / "a"), "--analysis")
    assert analyzed("--checkpoint", str(path), *flags, *analyses) == 0
    assert "temperature" in metrics(tmp_path / "a")
    capsys.readouterr()
    match change:
        case "checkpoint":
            path = save_model(tmp_path / "run", names, seed=1, split_hash=split, **data)
        case "split":
            more = ("--split", "val")
        case "analyses":
            analyses = ("eval",)
        case "test images":
            draw_folder(tmp_path / "new", counts, seed=1)
            shutil.copytree(tmp_path / "new" / "test", images / "test", dirs_exist_ok=True)
        case "validation images":
            shutil.rmtree(images / "train")
        case "a result":
            (tmp_path / "a" / "eval_metrics.json").write_text("{}")
    assert analyzed("--checkpoint", str(path), *flags, *analyses, *more) == 0
    assert "finished" not in capsys.readouterr().out
    assert ("temperature" in metrics(tmp_path / "a")) == (change not in ("analyses", "validation images"))


def test_an_analysis_killed_in_its_midst_leaves_the_earlier_one(trained, tmp_path):
    output = tmp_path / "a"
    assert analyzed("--checkpoint", str(trained), "--output-dir", str(output), "--analysis", "eval", "confusion") == 0
    before = contents(output)
    process = FORKS.Process(target=analyze_and_die, args=(trained, output))
    process.start()
    assert ended(process) == -signal.SIGKILL
    [left] = [path for path in output.iterdir() if path.is_dir()]
    assert (left / "gradcam.pt").exists()
    shutil.move(left, tmp_path / left.name)
    assert contents(output) == before
    shutil.move(tmp_path / left.name, left)
    assert analyzed("--checkpoint", str(trained), "--output-dir", str(output), "--split", "val") == 0
    assert {path.name for path in output.iterdir()} == FILES


def analyze_and_die(run_dir: Path, output: Path) -> None:
    STEPS["occlusion"] = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    analyzed("--checkpoint", str(run_dir), "--output-dir", str(output))


def test_a_second_process_is_refused_while_an_analysis_is_being_made_and_both_leave_one_whole(trained, tmp_path):
    ours, theirs = FORKS.Pipe()
    output = tmp_path / "a"
    process = FORKS.Process(target=analyze_and_wait, args=(trained, output, theirs))
    process.start()
    theirs.close()
    assert ours.recv() == "in its midst"
    assert analyzed("--checkpoint", str(trained), "--output-dir", str(output), "--split", "val") == 2
    ours.send("continue")
    assert ended(process) == 0
    assert metrics(output)["split"] == "test"
    assert {path.name for path in output.iterdir()} == {
        "eval_metrics.json", "predictions.csv", "predictions_grid.png", "learning_curves.png", "report.html",
        "analysis.json", LOCK,
    }  # fmt: skip


def analyze_and_wait(run_dir: Path, output: Path, answer: Connection) -> None:
    real = STEPS["predictions"]

    def wait(findings) -> None:
        answer.send("in its midst")
        answer.recv()
        real(findings)

    STEPS["predictions"] = wait
    flags = ("--checkpoint", str(run_dir), "--output-dir", str(output))
    sys.exit(analyzed(*flags, "--analysis", "eval", "predictions"))


@pytest.fixture(scope="module")
def earlier(trained, tmp_path_factory) -> Path:
    """An analysis of the validation images."""
    output = tmp_path_factory.mktemp("earlier") / "a"
    flags = ("--checkpoint", str(trained), "--output-dir", str(output), "--analysis", "eval")
    assert analyzed(*flags, "--split", "val") == 0
    return output


@pytest.mark.parametrize("name", STEPS)
def test_a_full_disk_ends_with_code_3_names_the_file_and_leaves_the_earlier_analysis(
    trained, earlier, tmp_path, capsys, name
):
    """A real file-size limit, which the first file of each analysis reaches."""
    shutil.copytree(earlier, tmp_path / "a")
    before = contents(tmp_path / "a")
    with files_limited_to(100):
        assert analyzed("--checkpoint", str(trained), "--output-dir", f"{tmp_path}/a", "--analysis", name) == 3
    said = capsys.readouterr().err
    assert said.startswith(f"inference failed: the analysis could not be written: {tmp_path}/a/")
    assert "File too large" in said and "Traceback" not in said
    assert contents(tmp_path / "a") == before


def test_a_full_disk_leaves_no_new_folder(trained, tmp_path, capsys):
    with files_limited_to(100):
        assert analyzed("--checkpoint", str(trained), "--output-dir", f"{tmp_path}/a", "--analysis", "eval") == 3
    assert not [*tmp_path.iterdir()]


def test_without_an_output_dir_each_checkpoint_split_and_data_has_a_folder_of_its_own(trained, tmp_path, monkeypatch):
    """What has been analyzed for one of them is still there after all others."""
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(trained, tmp_path / "run")
    other = draw_folder(tmp_path / "other", {"test": {"cat": 2}})
    newest = checkpoint.newest(run)
    alone = shutil.copy(newest / checkpoint.MODEL, tmp_path / "mine.safetensors")
    expected = {
        (run,): "run/analysis",
        (run / "best",): "run/analysis",
        (run, "--split", "val"): "run/analysis-val",
        (run, "--data-dir", other): "run/analysis-other-*",
        (run / "last",): f"run/analysis-{newest.name}",
        (newest,): f"run/analysis-{newest.name}",
        (newest / checkpoint.MODEL, "--split", "val"): f"run/analysis-{newest.name}-val",
        (alone,): "outputs/volo_inference/mine-*",
    }
    for asked in expected:
        assert analyzed("--checkpoint", *map(str, asked), "--analysis", "eval") == 0
    found = {str(page.parent.relative_to(tmp_path)) for page in tmp_path.rglob("report.html")}
    assert len(found) == len({*expected.values()}) == 6
    assert all(any(Path(path).match(pattern) for path in found) for pattern in expected.values())


def test_an_analysis_that_fails_leaves_the_earlier_one_and_nothing_else(trained, tmp_path, monkeypatch):
    flags = ("--checkpoint", str(trained), "--output-dir", str(tmp_path / "a"))
    assert analyzed(*flags, "--analysis", "eval") == 0
    before = contents(tmp_path / "a")
    monkeypatch.setitem(STEPS, "occlusion", lambda _: 1 / 0)
    assert analyzed(*flags) == 1
    assert contents(tmp_path / "a") == before
    assert analyzed("--checkpoint", str(trained), "--output-dir", str(tmp_path / "b")) == 1
    assert not (tmp_path / "b").exists()


def test_a_split_that_lacks_classes_is_analyzed_and_says_which(tmp_path):
    """Of the two images of `owl` none is held out, so that the validation split has none."""
    counts = {"cat": 30, "dog": 30, "owl": 2}
    images = draw_folder(tmp_path / "images", {"train": counts})
    split = split_train(np.repeat(np.arange(3), list(counts.values())), 0.2, seed=0).digest()
    path = save_model(tmp_path / "run", tuple(counts), split_hash=split, data_dir=str(images), val_fraction=0.2)
    assert analyzed("--checkpoint", str(path), "--split", "val", "--output-dir", str(tmp_path / "a")) == 0
    found = metrics(tmp_path / "a")
    assert found["per_class_images"] == {"cat": 6, "dog": 6, "owl": 0}
    assert found["per_class"]["owl"] is None
    assert found["acc1"] == pytest.approx((found["per_class"]["cat"] + found["per_class"]["dog"]) / 2)
    assert np.load(tmp_path / "a" / "confusion_matrix.npy").sum(axis=1).tolist() == [6, 6, 0]
    assert "NaN" not in (tmp_path / "a" / "eval_metrics.json").read_text()
    page = (tmp_path / "a" / "report.html").read_text()
    assert "Classes without an image here: owl." in page
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page).lower()
    assert "so results on them are optimistic" in page


def test_a_model_alone_has_all_but_the_learning_curves_also_where_its_training_data_are_gone(trained, tmp_path):
    """Only the test images are at hand: there is nothing to fit a temperature on, and the report says so."""
    best = str(shutil.copy(checkpoint.find(trained) / checkpoint.MODEL, tmp_path / "model.safetensors"))
    other = draw_folder(tmp_path / "labelled", {".": dict.fromkeys(COUNTS, 3)})
    hidden = (trained.parents[1] / "images").rename(tmp_path / "hidden")
    try:
        assert analyzed("--checkpoint", best, "--data-dir", str(other), "--output-dir", str(tmp_path / "a")) == 0
    finally:
        hidden.rename(trained.parents[1] / "images")
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == FILES - {"learning_curves.png", "reliability_after.png"}
    assert metrics(tmp_path / "a")["num_samples"] == 6 and "temperature" not in metrics(tmp_path / "a")
    assert "No temperature was fitted" in (tmp_path / "a" / "report.html").read_text()


def test_without_a_validation_split_every_analysis_still_works(tmp_path):
    images = draw_folder(tmp_path / "images", {"train": COUNTS, "test": dict.fromkeys(COUNTS, 2)})
    path = save_model(tmp_path / "run", tuple(sorted(COUNTS)), data_dir=str(images), val_fraction=0)
    assert analyzed("--checkpoint", str(path), "--output-dir", str(tmp_path / "a")) == 0
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == FILES - {"learning_curves.png", "reliability_after.png"}


def test_where_no_image_is_right_there_is_nothing_to_score_and_the_report_says_so(tmp_path, monkeypatch):
    """A model that says `black hourglass`, shown the drawn images of other classes."""
    from volo.data import shapes

    path = save_model(tmp_path / "run", shapes.CLASS_NAMES, dataset="shapes", val_fraction=0)
    weights, description = checkpoint.load_model(path)
    weights = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    weights["head.bias"][shapes.CLASS_NAMES.index("black hourglass")] = 5.0
    path = checkpoint.save(tmp_path / "run", weights, description, {}, total_steps=1)
    monkeypatch.setitem(shapes.NUM_IMAGES, "test", 20)  # of the first twenty classes
    flags = ("--checkpoint", str(path), "--output-dir", str(tmp_path / "a"), "--analysis", "eval")
    assert analyzed(*flags, "gradcam", "occlusion") == 0
    assert metrics(tmp_path / "a")["acc1"] == 0
    assert not (tmp_path / "a" / "localisation.json").exists()
    assert "No image is predicted right" in (tmp_path / "a" / "report.html").read_text()


def test_another_folder_must_have_the_same_classes(trained, tmp_path, capsys):
    other = draw_folder(tmp_path / "images", {"test": {"cat": 3, "owl": 3}})
    flags = ("--checkpoint", str(trained), "--data-dir", str(other), "--output-dir", str(tmp_path / "a"))
    assert analyzed(*flags) == 2
    assert "besides the checkpoint's 2, got 1 of 2 in" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_images_of_one_of_the_classes_are_analyzed_and_report_and_terminal_say_so(trained, tmp_path, capsys):
    other = draw_folder(tmp_path / "images", {"test": {"cat": 8}})
    flags = ("--checkpoint", str(trained), "--data-dir", str(other), "--output-dir", str(tmp_path / "a"))
    assert analyzed(*flags) == 0
    said = "The test images are of 1 of the 2 classes; there are none of "
    assert f"{said}<b>dog." in capsys.readouterr().out
    assert said in (tmp_path / "a" / "report.html").read_text()
    found = metrics(tmp_path / "a")
    assert found["per_class_images"] == {"<b>dog": 0, "cat": 8} and found["per_class"]["<b>dog"] is None
    assert np.load(tmp_path / "a" / "confusion_matrix.npy").sum() == 8


def test_weights_that_are_not_finite_end_with_code_2(trained, tmp_path, capsys):
    weights, description = checkpoint.load_model(checkpoint.find(trained))
    weights["head.bias"][0] = float("nan")
    path = checkpoint.save(tmp_path / "run", weights, description, {}, total_steps=1)
    assert analyzed("--checkpoint", str(path), "--output-dir", str(tmp_path / "a")) == 2
    assert "logits must be finite" in capsys.readouterr().err


@pytest.mark.parametrize("harm", ["missing", "truncated", "foreign"])
def test_a_checkpoint_that_cannot_be_used_ends_with_code_2(trained, tmp_path, capsys, harm):
    file = tmp_path / "model.safetensors"
    if harm == "truncated":
        whole = next(trained.glob("checkpoints/*/model.safetensors")).read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
    elif harm == "foreign":
        file.write_text("not a checkpoint")
    assert analyzed("--checkpoint", str(file), "--output-dir", str(tmp_path / "a")) == 2
    assert capsys.readouterr().err.count("error: ") == 1
    assert not (tmp_path / "a").exists()
