"""A model alone in a `.pt`: written, read, and refused where it is anything but tensors and plain values."""

import pickle
from pathlib import Path

import pytest
import torch

from tests.conftest import draw_folder
from tests.models import save_model
from volo.cli import analyze, predict
from volo.cli.outcome import exit_code
from volo.errors import InputError
from volo.runs import checkpoint

NAMES = ("<b>dog", "cat")


class Evil:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture
def exported(tmp_path) -> Path:
    return checkpoint.export_pt(save_model(tmp_path / "run", NAMES), tmp_path / "model.pt")


def test_an_exported_model_comes_back_whole(exported, tmp_path):
    weights, description = checkpoint.load_model(exported)
    expected, before = checkpoint.load_model(checkpoint.find(tmp_path / "run"))
    assert description == before
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_an_exported_model_is_tensors_and_plain_values(exported):
    values = torch.load(exported, weights_only=True)
    assert {"format", "schema_version", "model", "config", "class_names"} <= values.keys()
    assert values["class_names"] == list(NAMES)


def test_a_file_of_the_needed_keys_alone_is_enough(exported, tmp_path):
    values = torch.load(exported, weights_only=True)
    config = {"model": values["config"]["model"], "data": {"dataset": "imagefolder"}}
    kept = {name: values[name] for name in ("format", "schema_version", "model", "class_names")}
    torch.save({**kept, "config": config}, tmp_path / "own.pt")
    _, description = checkpoint.load_model(tmp_path / "own.pt")
    assert (description.class_names, description.step, description.split_hash) == (NAMES, 0, "")
    assert description.settings.data.mean is not None


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("job", ["analyze", "predict"])
def test_a_pickle_with_code_ends_with_code_2_and_runs_nothing(tmp_path, capsys, legacy, job):
    file, images = tmp_path / "model.pt", draw_folder(tmp_path, {"test": {"cat": 1}})
    if legacy:
        file.write_bytes(pickle.dumps(Evil(tmp_path / "ran"), protocol=2))
    else:
        torch.save({"format": "volo", "schema_version": 1, "model": Evil(tmp_path / "ran")}, file)
    flags = ["--checkpoint", str(file), "--num-workers", "0"]
    if job == "analyze":
        code = exit_code(analyze.main, [*flags, "--no-show", "--output-dir", str(tmp_path / "out")])
    else:
        code = exit_code(predict.main, [*flags, "--input", str(images), "--output", str(tmp_path / "out.csv")])
    assert code == 2
    assert "must be a complete file of only tensors and plain values" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("key", ["format", "schema_version", "model", "config", "class_names"])
def test_a_missing_key_is_named(exported, key):
    values = torch.load(exported, weights_only=True)
    del values[key]
    torch.save(values, exported)
    with pytest.raises(InputError, match=f"got one without {key};"):
        checkpoint.load_model(exported)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "other", "got one without that format"),
        ("schema_version", 99, "its schema_version is 99"),
        ("model", {"weight": 1.0}, "must hold a state_dict of tensors"),
        ("class_names", [], "class_names must be a list of names"),
        ("class_names", [1, 2], "class_names must be a list of names"),
        ("config", {"model": {"depth": 3}}, "model.depth is no setting"),
        ("config", "nano", "description that cannot be read"),
    ],
)
def test_values_of_another_kind_are_refused(exported, key, value, message):
    torch.save({**torch.load(exported, weights_only=True), key: value}, exported)
    with pytest.raises(InputError, match=message):
        checkpoint.load_model(exported)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", pickle.dumps([1], protocol=2)])
def test_foreign_files_are_refused(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.pt must be"):
        checkpoint.load_model(tmp_path / "a.pt")


def test_a_file_cut_short_is_refused(exported):
    content = exported.read_bytes()
    exported.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="must be a complete file"):
        checkpoint.load_model(exported)


def test_a_target_that_cannot_be_is_refused(exported, tmp_path):
    with pytest.raises(InputError, match=r"must end in \.pt or \.pth"):
        checkpoint.export_pt(exported, tmp_path / "model.bin")
    with pytest.raises(InputError, match="the exported model must be writable"):
        checkpoint.export_pt(exported, tmp_path / "none" / "model.pt")
