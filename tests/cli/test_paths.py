"""Wherever a command takes a path, a URL and an empty one are refused, and nothing is written."""

import importlib

import pytest

import volo
from volo.cli.parse import exit_code
from volo.data.decoded.cache import cache_dir
from volo.errors import InputError
from volo.settings.paths import check_path, local_path

OF_SETTINGS = ["--output-dir", "--data-dir", "--init-weights", "--resume-path", "--teacher", "--config"]
COMMANDS = [
    *[("train", f"{flag} URL --num-workers 0") for flag in OF_SETTINGS],
    *[("doctor", f"{flag} URL --num-workers 0") for flag in OF_SETTINGS],
    *[("tune", f"--space mix {flag} URL") for flag in OF_SETTINGS if flag != "--resume-path"],
    *[("tune", "--space URL"), ("tune", "--space URL/a.py"), ("tune", "--space mix --sweep-name URL")],
    *[("pipeline", f"{flag} URL") for flag in OF_SETTINGS],
    ("pipeline", "--space mix --sweep-name URL"),
    *[("analyze", "--checkpoint URL"), ("analyze", "--checkpoint x --output-dir URL")],
    ("analyze", "--checkpoint x --data-dir URL"),
    *[("predict", "--checkpoint URL --input x"), ("predict", "--checkpoint x --input x URL")],
    ("predict", "--checkpoint x --input x --output URL"),
    *[("export", "--checkpoint URL --output x.onnx"), ("export", "--checkpoint x --output URL")],
    *[("compare", "URL x"), ("compare", "x URL"), ("compare", "x y --output-dir URL")],
    ("runs", "--output-dir URL"),
]


@pytest.mark.parametrize(("job", "command"), COMMANDS, ids=lambda part: part.replace(" ", "_"))
def test_a_url_is_refused_by_name_wherever_a_path_is_meant(job, command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main = importlib.import_module(f"jobs.{job}").main
    assert exit_code(main, command.replace("URL", "s3://bucket/run").split()) == 2
    said = capsys.readouterr().err
    assert "must be a path, got 's3://bucket/run" in said
    assert "URLs are not supported yet; use a path on a disk that every node sees" in said
    if "/a.py" not in command:
        empty = [arg.replace("URL", "") for arg in command.split()]
        assert exit_code(main, empty) == 2
        assert "must name a path, got ''" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["s3://b/x", "gs://b", "file:///tmp/x", "HTTPS://h/x", "hdfs:/x", "az+ssh://x"])
def test_every_scheme_is_a_url_and_what_looks_like_one_is_not(url):
    with pytest.raises(InputError, match="URLs are not supported yet"):
        local_path(url, "--output-dir")
    with pytest.raises(InputError, match="URLs are not supported yet"):
        volo.load(url)
    for path in ("a:b", "C:/x", "./s3:/x", "s3", "runs/12:30", "/s3://x", "~/x"):
        assert check_path(path, "--output-dir") == path
        assert local_path(path, "--output-dir").is_absolute()


@pytest.mark.parametrize("job", ["analyze", "predict"])
def test_an_empty_address_is_not_taken_for_none(job, capsys):
    main = importlib.import_module(f"jobs.{job}").main
    flags = ["--input", "x"] if job == "predict" else []
    assert exit_code(main, ["--checkpoint", "x", *flags, "--address", ""]) == 2
    assert "address string must have at least 1 character, got ''" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["VOLO_CACHE_DIR", "XDG_CACHE_HOME"])
def test_a_cache_at_a_url_is_refused(monkeypatch, name):
    monkeypatch.delenv("VOLO_CACHE_DIR")
    monkeypatch.setenv(name, "s3://bucket/cache")
    with pytest.raises(InputError, match=f"{name} must be a path, got 's3://bucket/cache': URLs are not supported yet"):
        cache_dir()


NAMES = ["", " ", ".", "..", "a/..", "../a", "a/../b", "/tmp/a", "a//b", "a/", "~/a", "a b", "a\nb", "a*", "n" * 300]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "command",
    ["train --run-name", "pipeline --run-name", "doctor --run-name", "tune --space mix --sweep-name",
     "pipeline --space mix --sweep-name"],
)  # fmt: skip
def test_every_name_that_becomes_a_folder_is_checked_alike(command, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "thesis").mkdir(parents=True)
    job, *flags = command.split()
    main = importlib.import_module(f"jobs.{job}").main
    assert exit_code(main, [*flags, name, "--dataset", "shapes", "--fresh"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {flags[-1]} must ") and len(said) < 400
    assert [path.name for path in tmp_path.rglob("*")] == ["outputs", "thesis"]
