"""`jobs.predict` as a user meets it: the table, going on after a kill, refusals."""

import csv
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

import volo
from tests.cli.test_parse import ROOT
from tests.conftest import draw_folder
from tests.models import save_model
from volo.analysis import predict as library
from volo.cli import predict
from volo.cli.outcome import exit_code
from volo.tables import read_table

NAMES = ("cat", "dog", "<b>owl</b>, a bird")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "run", NAMES).parents[1]


@pytest.fixture
def images(tmp_path) -> Path:
    return draw_folder(tmp_path / "images", {"a": {"x": 9, "y": 8}, "b": {"z": 6}})


def predicted(model: Path, *inputs, output: Path, batch_size: int = 2) -> int:
    flags = ["--checkpoint", str(model), "--input", *map(str, inputs), "--output", str(output)]
    return exit_code(predict.main, [*flags, "--num-workers", "0", "--batch-size", str(batch_size)])


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(read_table(path))


def test_the_table_holds_a_row_an_image_in_order_with_its_best_classes(model, images, tmp_path, capsys):
    output = tmp_path / "predictions.csv"
    assert predicted(model, images, output=output) == 0
    rows = rows_of(output)
    assert [row["path"] for row in rows] == sorted(map(str, images.rglob("*.png")))
    assert list(rows[0]) == ["path", "class_1", "prob_1", "class_2", "prob_2", "class_3", "prob_3"]
    expected = volo.load(model).predict(rows[5]["path"])
    assert [rows[5][f"class_{place}"] for place in (1, 2, 3)] == [name for name, _ in expected]
    found = [float(rows[5][f"prob_{place}"]) for place in (1, 2, 3)]
    assert found == pytest.approx([probability for _, probability in expected], abs=1e-5)
    assert capsys.readouterr().out.splitlines()[-1] == f"predictions: {output}"
    left = {"predictions.csv", "predictions.errors.csv", "predictions.source.json", "images"}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_of_many_classes_the_five_best_are_named(images, tmp_path):
    model = save_model(tmp_path / "run", tuple("abcdefgh"))
    assert predicted(model, images / "b", output=tmp_path / "a.csv") == 0
    assert list(rows_of(tmp_path / "a.csv")[0])[-1] == "prob_5"


def test_names_of_any_bytes_survive(model, images, tmp_path):
    odd = [b'a, "b".png', b"c\nd\r.png", "grün é.png".encode(), b"no\xffutf8.png", b"=1+1.png"]
    [source, *_] = images.rglob("*.png")
    for name in odd:
        shutil.copy(source, os.fsdecode(bytes(images / "b") + b"/" + name))
    (images / "b" / os.fsdecode(b"broken\xfe,\n.png")).write_text("no image")
    assert predicted(model, images / "b", output=tmp_path / "a.csv") == 0
    assert {os.fsencode(Path(row["path"]).name) for row in rows_of(tmp_path / "a.csv")} >= set(odd)
    [bad] = rows_of(tmp_path / "a.errors.csv")
    assert os.fsencode(Path(bad["path"]).name) == b"broken\xfe,\n.png"
    assert len((tmp_path / "a.csv").read_bytes().decode().splitlines()) == 6 + 5 + 1


def test_classes_and_paths_that_are_formulas_are_none_in_the_table(images, tmp_path, monkeypatch):
    names = ("=1+1", "-dog", "@owl")
    model = save_model(tmp_path / "run", names)
    monkeypatch.chdir(tmp_path)
    Path("=folder").mkdir()
    shutil.copy(next(images.rglob("*.png")), "=folder/a.png")
    assert predicted(model, "=folder", output=tmp_path / "a.csv") == 0
    with open(tmp_path / "a.csv", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    [row] = rows_of(tmp_path / "a.csv")
    assert {row["class_1"], row["class_2"], row["class_3"]} == set(names)
    assert row["path"].endswith("=folder/a.png")


def test_files_that_cannot_be_read_are_listed_and_not_fatal(model, images, tmp_path, capsys):
    for number in range(5):
        (images / f"text{number}.png").write_text("no image")
    assert predicted(model, images, output=tmp_path / "a.csv") == 0
    assert len(rows_of(tmp_path / "a.csv")) == 23
    bad = rows_of(tmp_path / "a.errors.csv")
    assert [Path(row["path"]).name for row in bad] == [f"text{number}.png" for number in range(5)]
    assert "cannot identify image file" in bad[0]["reason"]
    printed = capsys.readouterr().out
    assert f"5 files could not be read, listed in {tmp_path / 'a.errors.csv'}" in printed
    assert "and 2 more" in printed


@pytest.fixture(scope="module")
def killed(tmp_path_factory, model) -> tuple[Path, Path]:
    """Images, and the output of a job ended by SIGKILL as soon as three pieces of four images were kept."""
    folder = tmp_path_factory.mktemp("killed")
    images, output = draw_folder(folder / "images", {"a": {"x": 9, "y": 8}, "b": {"z": 6}}), folder / "a.csv"
    script = (
        "import os, signal, sys\n"
        "from volo.cli import predict\n"
        "from volo.analysis.predict import Outputs\n"
        "real, kept = Outputs.keep, []\n"
        "def keep(self, piece):\n"
        "    real(self, piece)\n"
        "    kept.append(piece)\n"
        "    if len(kept) == 3:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "Outputs.keep = keep\n"
        "predict.main(sys.argv[1:])\n"
    )
    flags = ["--checkpoint", str(model), "--input", str(images), "--output", str(output)]
    command = [sys.executable, "-c", script, *flags, "--num-workers", "0", "--batch-size", "1"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == -9
    assert [path.name for path in folder.iterdir() if path != images] == ["a.parts"]
    return images, output


@pytest.fixture
def interrupted(killed, tmp_path) -> tuple[Path, Path]:
    """The same, the output a copy of the test's own."""
    images, output = killed
    shutil.copytree(output.with_suffix(".parts"), tmp_path / "a.parts")
    return images, tmp_path / "a.csv"


def pieces_of(output: Path) -> list[Path]:
    return sorted(output.with_suffix(".parts").glob("*-*.json"))


def test_killed_and_restarted_it_computes_what_is_missing_and_nothing_else(model, interrupted, tmp_path, capsys):
    images, output = interrupted
    predicted(model, images, output=tmp_path / "whole.csv")
    assert [piece.name for piece in pieces_of(output)] == [f"{n:09d}-{n + 4:09d}.json" for n in (0, 4, 8)]
    second = pieces_of(output)[1]
    marked = json.loads(second.read_text())
    marked[0] = [[0, 0.5], [1, 0.25], [2, 0.25]]
    second.write_text(json.dumps(marked))
    assert predicted(model, images, output=output, batch_size=5) == 0
    assert "resuming: 12 of 23 images are done" in capsys.readouterr().out
    rows, expected = rows_of(output), rows_of(tmp_path / "whole.csv")
    assert rows[4]["prob_1"] == "0.5"  # kept, not computed again
    assert [row["class_1"] for row in rows[:4] + rows[5:]] == [row["class_1"] for row in expected[:4] + expected[5:]]
    assert [row["path"] for row in rows] == [row["path"] for row in expected]
    assert not (tmp_path / "a.parts").exists()


def test_stopped_before_the_table_gets_its_name_it_is_put_together_again(model, interrupted, monkeypatch):
    images, output = interrupted
    with monkeypatch.context() as patched:
        patched.setattr(library.Outputs, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert predicted(model, images, output=output) == 130
    assert not output.exists()
    assert predicted(model, images, output=output) == 0
    assert len(rows_of(output)) == 23


def test_a_finished_table_is_left_alone_and_says_so(model, images, tmp_path, capsys):
    predicted(model, images, output=tmp_path / "a.csv")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("a.*")}
    assert predicted(model, images, output=tmp_path / "a.csv") == 0
    assert "this table is finished, 23 images" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("a.*")} == before


def test_the_same_weights_elsewhere_are_the_same_checkpoint(model, interrupted, tmp_path, capsys):
    images, output = interrupted
    assert predicted(shutil.copytree(model, tmp_path / "moved"), images, output=output) == 0
    assert "resuming: 12 of 23" in capsys.readouterr().out


def test_a_temperature_flattens_the_probabilities_and_is_that_of_the_whole_table(model, images, tmp_path, capsys):
    flags = ["--checkpoint", str(model), "--input", str(images), "--num-workers", "0"]
    output = tmp_path / "a.csv"
    assert exit_code(predict.main, [*flags, "--output", str(output), "--temperature", "2.5"]) == 0
    predicted(model, images, output=tmp_path / "b.csv")
    warm, plain = rows_of(output), rows_of(tmp_path / "b.csv")
    classifier = volo.load(model)
    for one, other in zip(warm, plain, strict=True):
        probabilities = np.array([float(other[f"prob_{place}"]) for place in (1, 2, 3)]) ** (1 / 2.5)
        expected = probabilities / probabilities.sum()
        assert [float(one[f"prob_{place}"]) for place in (1, 2, 3)] == pytest.approx(expected.tolist(), abs=1e-4)
    found = classifier.predict(warm[0]["path"], temperature=2.5)
    assert float(warm[0]["prob_1"]) == pytest.approx(found[0][1], abs=1e-5)
    assert predicted(model, images, output=output) == 2
    assert "temperature: 2.5 before, 1 now" in capsys.readouterr().err


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize("change", ["checkpoint", "images"])
def test_another_checkpoint_or_other_images_are_refused_and_nothing_is_mixed(
    model, interrupted, tmp_path, capsys, is_finished, change
):
    images, output = interrupted
    if is_finished:
        predicted(model, images, output=output)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    inputs = [images]
    if change == "images":
        inputs.append(draw_folder(tmp_path / "more", {"a": {"x": 1}}))
    else:
        model = save_model(tmp_path / "other", NAMES, seed=1)
    assert predicted(model, *inputs, output=output) == 2
    errors = capsys.readouterr().err
    assert f"  {change}: " in errors
    assert f"choose another --output, or delete {output if is_finished else output.with_suffix('.parts')}" in errors
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {path.name for path in tmp_path.glob("a.*")} == {path.relative_to(tmp_path).parts[0] for path in before}


def test_a_start_that_was_killed_before_its_first_piece_binds_nobody(interrupted, tmp_path):
    images, output = interrupted
    for piece in pieces_of(output):
        piece.unlink()
    assert predicted(save_model(tmp_path / "other", NAMES, seed=1), images, output=output) == 0


@pytest.mark.parametrize(
    "content", [None, '{"0": 1}', "[1, 2, 3, 4]", "[[[9, 0.5]], [], [], []]", "[[[0]], [], [], []]"]
)
def test_a_damaged_piece_is_named_and_computed_again_once_removed(model, interrupted, capsys, content):
    images, output = interrupted
    piece = pieces_of(output)[0]
    piece.write_text(content or piece.read_text()[:-9])
    assert predicted(model, images, output=output) == 2
    assert f"{piece} is damaged" in capsys.readouterr().err
    piece.unlink()
    assert predicted(model, images, output=output) == 0


def test_two_processes_never_make_one_table(model, images, tmp_path, capsys):
    (tmp_path / "a.parts").mkdir()
    with FileLock(tmp_path / "a.parts" / ".lock"):
        assert predicted(model, images, output=tmp_path / "a.csv") == 2
    assert "is being written by another process" in capsys.readouterr().err


def test_a_full_disk_ends_with_code_3_and_keeps_what_is_finished(model, images, tmp_path, capsys):
    """A real file-size limit, which the table is the first to reach."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        assert predicted(model, images, output=tmp_path / "a.csv") == 3
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    errors = capsys.readouterr().err
    assert "inference failed: predictions could not be written" in errors
    assert "File too large" in errors
    assert not list(tmp_path.glob("*a.csv*"))
    assert predicted(model, images, output=tmp_path / "a.csv") == 0
    assert "resuming: 23 of 23 images are done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--checkpoint": "{tmp}/none"}, "a checkpoint must exist"),
        ({"--input": "{tmp}/none"}, "--input must name files or folders"),
        ({"--input": "{tmp}/empty"}, "--input must hold an image of a format Pillow reads"),
        ({"--output": "{tmp}/none/a.csv"}, "--output must name a file in an existing folder"),
        ({"--output": "{tmp}/empty"}, "--output must name a file ending in .csv"),
        ({"--output": "/proc/a.csv"}, "--output must lie in a folder that can be written"),
        ({"--output": "{tmp}/mine.csv"}, "--output must be new or an earlier table of the same"),
        ({"--batch-size": "0"}, "--batch-size must be at least 1, got 0"),
        ({"--temperature": "0"}, "--temperature must be above 0, got 0"),
        ({"--temperature": "nan"}, "--temperature must be above 0, got nan"),
        ({"--num-workers": "-1"}, "--num-workers must be at least 0, got -1"),
        ({"--address": "auto"}, "--address has no effect with --num-workers 0"),
        ({"--device": "cuda"}, "--device cuda needs a GPU"),
    ],
)
def test_wrong_input_ends_with_code_2_and_one_message(model, images, tmp_path, capsys, monkeypatch, change, message):
    monkeypatch.setattr(library.torch.cuda, "is_available", lambda: False)
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine.csv").write_text("thesis")
    flags = {"--checkpoint": str(model), "--input": str(images), "--output": f"{tmp_path}/a.csv", "--num-workers": "0"}
    flags |= {name: value.format(tmp=tmp_path) for name, value in change.items()}
    assert exit_code(predict.main, [word for pair in flags.items() for word in pair]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("error: ") == 1
    assert not list(tmp_path.glob("a.*"))
    assert (tmp_path / "mine.csv").read_text() == "thesis"
    assert not list(tmp_path.glob("mine.p*"))


def test_what_a_folder_holds_besides_images_is_said_with_its_number(model, images, tmp_path, caplog):
    caplog.set_level("INFO", "volo")
    for name in ("1.jxl", "2.jxl", "notes.txt"):
        (images / "b" / name).write_text("no image")
    (images / "b" / "dead.png").symlink_to("nothing")
    assert predicted(model, images, output=tmp_path / "a.csv") == 0
    assert len(rows_of(tmp_path / "a.csv")) == 23
    assert rows_of(tmp_path / "a.errors.csv") == []
    [said] = [message for message in caplog.messages if "; skipped: " in message]
    assert said.startswith(f"{images}: 23 images; skipped: 2 .jxl files (the first is {images}/b/1.jxl), 1 link")
    assert "1 .txt file" in said
