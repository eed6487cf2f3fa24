"""Row 8: a pickle with code in it, wherever a user may name a file or a run may hold one: refused, and nothing runs."""

import hashlib
import io
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import draw_folder
from tests.training.runs import small_run
from tests.training.runs import train as trained
from volo.cli import analyze, compare, export, predict, runs, train
from volo.cli.outcome import exit_code
from volo.data.decoded.cache import cache_dir
from volo.runs import checkpoint
from volo.runs.model_file import SCHEMA_VERSION

REFUSED = 2
FORMS = ("pickle", "zip", "legacy")

# torch says so where a pickle has a newer protocol than it writes itself, and refuses it all the same.
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning:torch")


class Code:
    """What unpickles it makes a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path) -> Path:
    return tmp_path / "code-has-run"


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    counts = {"cat": 20, "dog": 20}
    return draw_folder(tmp_path_factory.mktemp("pickles") / "images", {"train": counts, "test": counts})


@pytest.fixture(scope="module")
def sound(tmp_path_factory, images) -> Path:
    """A run of one epoch that has a second to go."""
    return trained(small_run(tmp_path_factory.mktemp("pickles"), images, optim=dict(epochs=2, max_steps=2)))


@pytest.fixture
def run_dir(sound, tmp_path) -> Path:
    return shutil.copytree(sound, tmp_path / "outputs" / "run")


def harmful(mark: Path, form: str) -> bytes:
    """As `pickle.dumps` writes it, or `torch.save` in its present form or the one before, around what is expected."""
    values = {"format": "volo", "schema_version": SCHEMA_VERSION, "model": Code(mark), "state_dict": Code(mark)}
    if form == "pickle":
        return pickle.dumps(values)
    buffer = io.BytesIO()
    torch.save(values, buffer, _use_new_zipfile_serialization=form == "zip")
    return buffer.getvalue()


def placed(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def replaced(run_dir: Path, name: str, content: bytes) -> None:
    """Puts other bytes into the newest checkpoint, and a manifest that holds: as somebody would who may write there."""
    folder = checkpoint.newest(run_dir)
    (folder / name).write_bytes(content)
    manifest = checkpoint.Manifest.read(folder / checkpoint.MANIFEST)
    manifest.files[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / checkpoint.MANIFEST).write_text(manifest.to_text())


def train_flags(tmp_path: Path, images: Path, *flags: str) -> list[str]:
    settings = small_run(tmp_path, images, optim=dict(epochs=2))
    config = placed(tmp_path / "config.json", json.dumps(settings.to_dict()).encode())  # JSON is YAML
    return ["--config", str(config), *flags]


def test_the_code_of_these_tests_would_run(mark):
    """Else they would show nothing."""
    for form in FORMS:
        content = harmful(mark, form)
        _ = pickle.loads(content) if form == "pickle" else torch.load(io.BytesIO(content), weights_only=False)
        assert mark.exists(), form
        mark.unlink()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.safetensors", "model"])
@pytest.mark.parametrize("job", [analyze, predict, export], ids=lambda job: job.__name__)
def test_as_the_checkpoint_to_apply(tmp_path, mark, images, job, name, form, capsys):
    own = {
        analyze: ["--num-workers", "0", "--no-show", "--output-dir", str(tmp_path / "out")],
        predict: ["--num-workers", "0", "--input", str(images), "--output", str(tmp_path / "out.csv")],
        export: ["--output", str(tmp_path / "out.pt2")],
    }[job]
    file = placed(tmp_path / name, harmful(mark, form))
    assert exit_code(job.main, ["--checkpoint", str(file), *own]) == REFUSED
    assert str(file) in capsys.readouterr().err
    assert not mark.exists()
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "flags",
    [["--init-weights"], ["--teacher", "--distillation", "0.5"], ["--resume-path"]],
    ids=lambda flags: flags[0],
)
def test_as_a_file_that_training_begins_from(tmp_path, mark, images, flags, form, capsys):
    for name in ("model.pt", "model.safetensors"):
        file = placed(tmp_path / name, harmful(mark, form))
        assert exit_code(train.main, train_flags(tmp_path, images, flags[0], str(file), *flags[1:])) == REFUSED
        assert str(file) in capsys.readouterr().err
        assert not mark.exists()
        assert not list(tmp_path.glob("outputs/*/checkpoints"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [checkpoint.STATE, checkpoint.MODEL])
def test_inside_the_run_that_is_resumed_or_branched_from(tmp_path, mark, images, run_dir, name, form, capsys):
    replaced(run_dir, name, harmful(mark, form))
    assert exit_code(train.main, train_flags(tmp_path, images)) == REFUSED
    assert name in capsys.readouterr().err
    branch = ["--run-name", "branch", "--resume-path", str(run_dir)]
    assert exit_code(train.main, train_flags(tmp_path, images, *branch)) == REFUSED
    assert name in capsys.readouterr().err
    assert not mark.exists()


@pytest.mark.parametrize("form", FORMS)
def test_inside_a_run_whose_manifest_does_not_hold(tmp_path, mark, images, run_dir, form):
    """The checkpoint is skipped; none is left, so the run starts over."""
    folder = checkpoint.newest(run_dir)
    (folder / checkpoint.STATE).write_bytes(harmful(mark, form))
    with pytest.warns(UserWarning, match=r"training_state\.pt must match its manifest"):
        assert exit_code(train.main, train_flags(tmp_path, images, "--max-steps", "1")) == 0
    assert not mark.exists()


def test_inside_runs_that_are_listed_compared_analyzed_or_taken_for_a_teacher(
    tmp_path, mark, images, run_dir, sound, capsys
):
    replaced(run_dir, checkpoint.MODEL, harmful(mark, "zip"))
    (run_dir / "config.yaml").write_text(f"optim: !!python/object/apply:os.mkdir ['{mark}']\n")
    with pytest.warns(UserWarning, match=r"skipped .*config\.yaml, which is damaged"):
        assert exit_code(runs.main, ["--output-dir", str(tmp_path)]) == 0
    assert exit_code(compare.main, [str(run_dir), str(sound)]) == REFUSED
    assert exit_code(analyze.main, ["--checkpoint", str(run_dir), "--num-workers", "0", "--no-show"]) == REFUSED
    teacher = ["--run-name", "pupil", "--teacher", str(run_dir), "--distillation", "0.5"]
    assert exit_code(train.main, train_flags(tmp_path, images, *teacher)) == REFUSED
    assert not mark.exists()


@pytest.mark.parametrize("tag", ["object/apply", "object/new"])
def test_a_settings_file_that_calls(tmp_path, mark, tag, capsys):
    config = placed(tmp_path / "config.yaml", f"optim: !!python/{tag}:os.mkdir ['{mark}']\n".encode())
    assert exit_code(train.main, ["--config", str(config)]) == REFUSED
    assert "--config must be valid YAML" in capsys.readouterr().err
    assert not mark.exists()


def test_the_cache_of_decoded_images(tmp_path, mark, images, monkeypatch):
    """It is read as plain bytes: a pickle in its place has no valid checksum, and images are decoded again."""
    monkeypatch.setenv("VOLO_CACHE_DIR", str(tmp_path / "cache"))
    trained(small_run(tmp_path / "a", images, optim=dict(max_steps=1)))
    files = sorted(cache_dir().glob("*/*.bin"))
    assert {file.name for file in files} == {"images.bin", "index.bin"}
    for file in files:
        with open(file, "wb") as opened:
            np.save(opened, np.array([Code(mark)], dtype=object), allow_pickle=True)
    trained(small_run(tmp_path / "b", images, optim=dict(max_steps=1)))
    assert not mark.exists()
