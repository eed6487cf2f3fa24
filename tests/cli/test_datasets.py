"""Published data sets from the command line: with nothing there, and with an archive served on loopback."""

from pathlib import Path

import pytest

from tests.data.archives.served import ARCHIVES, md5, packed, served
from volo.cli import train
from volo.cli.outcome import exit_code
from volo.data.archives.cifar import CIFAR100
from volo.data.archives.fetch import MIRROR
from volo.runs import checkpoint
from volo.runs.records import read_records

SMALL = [
    *["--model", "quickstart", "--embed-dim", "32", "--stem-channels", "8", "16"],
    *["--epochs", "1", "--batch-size", "20", "--num-workers", "0", "--val-fraction", "0.2"],
    *["--auto-augment", "trivial", "--random-erasing", "0.25"],
]


def places(tmp_path: Path) -> list[str]:
    return ["--data-dir", str(tmp_path / "data"), "--output-dir", str(tmp_path), "--run-name", "run"]


def test_without_a_network_the_error_says_what_to_place_where(tmp_path, monkeypatch, capsys):
    import ray

    monkeypatch.setenv(MIRROR, "https://127.0.0.1:1/")
    flags = ["--dataset", "cifar100", "--epochs", "130", "--batch-size", "256"]
    assert exit_code(train.main, [*flags, *places(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {CIFAR100.file} with md5 {CIFAR100.md5} is needed, from https://127.0.0.1:1/")
    assert "but that cannot be reached" in errors
    assert f"save it as {tmp_path / 'data' / CIFAR100.file}, or pass the folder that holds it" in errors
    assert "Traceback" not in errors
    assert not ray.is_initialized()


@pytest.mark.parametrize("dataset", ARCHIVES)
def test_an_archive_served_on_loopback_is_trained_on(tmp_path, monkeypatch, capsys, dataset):
    make_files, published = ARCHIVES[dataset]
    content, _ = packed(make_files(), published)
    with served() as server:
        monkeypatch.setenv(MIRROR, f"{server.serve(published.file, content)}#md5={md5(content)}")
        assert exit_code(train.main, ["--dataset", dataset, *SMALL, *places(tmp_path)]) == 0, capsys.readouterr().err
    assert server.requests == [f"/{published.file}"]
    _, description = checkpoint.load_model(checkpoint.newest(tmp_path / "run"))
    assert len(description.class_names) == 10
    assert [record["epoch"] for record in read_records(tmp_path / "run") if record["kind"] == "epoch"] == [1]


def test_the_default_data_directory_is_used_when_none_is_given(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["--dataset", "imagefolder", "--num-workers", "0", "--output-dir", str(tmp_path)]
    assert exit_code(train.main, flags) == 2
    assert f"got no folder {tmp_path / 'data' / 'imagefolder' / 'train'}" in capsys.readouterr().err
