"""The command line as a user meets it: what it accepts, refuses and returns."""

import importlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tyro
import yaml

from volo.cli import train
from volo.cli.flags import described, flags_over
from volo.cli.outcome import exit_code
from volo.cli.parse import CONFIG, as_typed, parse_settings
from volo.cli.short_help import spelled_for_tyro
from volo.errors import InputError, OutOfRetries, Stopped, TrainingError
from volo.files import staging
from volo.settings.config import build_settings
from volo.signals import TO_STOP

ROOT = Path(__file__).parents[2]


def parsed(*argv: str):
    return parse_settings(argv, prog="train", description="")


def test_flags_lie_over_the_file_over_the_recipe_over_the_defaults(tmp_path):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"optim": {"epochs": 9, "batch_size": 99}}))
    settings = parsed("--recipe", "quickstart", "--config", str(tmp_path / "a.yaml"), "--epochs", "3")
    assert (settings.optim.epochs, settings.optim.batch_size, settings.data.dataset) == (3, 99, "shapes")
    assert settings.optim.beta2 == 0.999


@pytest.mark.parametrize(
    "argv",
    [
        ("--epochs",),
        ("--epochs", "many"),
        ("--epochs", "1", "2"),
        ("--epoch", "3", "--pooling", "cls"),
        ("--epochs", "3", "--no-use-amp"),
        ("--epochs", "3", "--no-epochs"),
        ("--pooling", "max", "--hierarchical"),
        ("--epochs=3", "--help-all"),
    ],
    ids=" ".join,
)
def test_what_is_said_of_a_command_line_does_not_depend_on_how_many_flags_are_described(argv, capsys):
    with pytest.raises(SystemExit) as end:
        parsed(*argv)
    said = capsys.readouterr()
    every = flags_over(build_settings(), None, ())
    with pytest.raises(SystemExit) as expected:
        tyro.cli(every, args=spelled_for_tyro(argv), prog="train", description="", config=CONFIG)
    assert end.value.code == expected.value.code
    assert said == capsys.readouterr()


def test_of_the_settings_only_those_on_the_command_line_are_described():
    none = described(flags_over(build_settings(), None, (), only=()))
    assert described(flags_over(build_settings(), None, (), only={"--epochs"})) - none == {"--epochs"}
    off = {"--compile", "--no-compile"}
    assert described(flags_over(build_settings(), None, (), only={"--no-compile"})) - none == off


def test_the_flags_of_the_field_reach_their_settings():
    settings = parsed(
        *[
            "--dataset",
            "imagefolder",
            "--data-dir",
            "d",
            "--epochs",
            "5",
            "--batch-size",
            "8",
            "--max-steps",
            "4",
            "--train-images",
            "40",
        ],
        *[
            "--val-fraction",
            "0",
            "--seed",
            "3",
            "--output-dir",
            "o",
            "--run-name",
            "r",
            "--use-amp",
            "--autocast-dtype",
            "fp16",
        ],
        *[
            "--num-workers",
            "3",
            "--mixup-alpha",
            "0.2",
            "--cutmix-alpha",
            "1",
            "--mix-prob",
            "0.5",
            "--model",
            "tiny",
            "--stem-channels",
            "8",
            "16",
        ],
    )
    assert settings.data.data_dir == "d"
    assert settings.data.val_fraction == 0
    assert (settings.optim.use_amp, settings.optim.autocast_dtype) == (True, "fp16")
    assert (settings.run.seed, settings.run.num_workers, settings.run.run_name) == (3, 3, "r")
    assert (settings.model.variant, settings.model.stem_channels) == ("tiny", (8, 16))
    assert parsed("--no-amp").optim.use_amp is False
    assert parsed("--hang-timeout", "90s").run.hang_timeout == "90s"


def test_defaults_are_those_that_are_documented():
    settings = parsed().resolved()
    assert (settings.data.dataset, settings.optim.epochs, settings.optim.batch_size) == ("cifar100", 130, 256)
    assert settings.data.data_dir == str(Path.cwd() / "data" / "cifar100")
    assert settings.run_dir == Path.cwd() / "outputs" / "cifar100-nano"
    assert parsed("--recipe", "tiny").run_dir.name == "tiny"


def test_a_file_may_leave_to_the_flags_what_makes_it_whole(tmp_path):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"augment": {"mix_prob": 0.5}, "data": {"train_images": 100}}))
    settings = parsed("--config", str(tmp_path / "a.yaml"), "--mixup-alpha", "0.5", "--batch-size", "32")
    assert (settings.augment.mix_prob, settings.augment.mixup_alpha, settings.data.train_images) == (0.5, 0.5, 100)


def test_a_file_lies_over_the_recipe_that_it_names_unless_a_flag_names_another(tmp_path):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"recipe": "nano", "optim": {"lr": 0.5}}))
    named = parsed("--config", str(tmp_path / "a.yaml"))
    assert (named.recipe, named.optim.lr, named.optim.batch_size) == ("nano", 0.5, 64)
    other = parsed("--config", str(tmp_path / "a.yaml"), "--recipe", "tiny")
    assert (other.recipe, other.optim.lr, other.optim.batch_size) == ("tiny", 0.5, 256)
    (tmp_path / "a.yaml").write_text("recipe: bogus")
    with pytest.raises(InputError, match="--recipe must be one of"):
        parsed("--config", str(tmp_path / "a.yaml"))


@pytest.mark.parametrize("job", ["pipeline", "predict"])
def test_a_job_that_starts_its_own_workers_is_refused_under_torchrun(job, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    main = importlib.import_module(f"volo.cli.{job}").main
    flags = [] if job == "pipeline" else ["--checkpoint", "x", "--input", "y"]
    assert exit_code(main, flags) == 2
    assert "starts its own workers, got torchrun around it" in capsys.readouterr().err


def test_printed_settings_are_a_settings_file(capsys, tmp_path):
    assert parsed("--recipe", "nano", "--lr", "0.01", "--print-config") is None
    (tmp_path / "a.yaml").write_text(capsys.readouterr().out)
    assert (
        parsed("--config", str(tmp_path / "a.yaml")).resolved() == parsed("--recipe", "nano", "--lr", "0.01").resolved()
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--epochs 0", "--epochs must be greater than or equal to 1, got 0"),
        (
            "--recipe huge",
            "--recipe must be one of quickstart, nano, tiny, small, photos, photos-finetune, imagenet-d1",
        ),
        ("--config none.yaml", "--config must name a readable YAML file"),
        ("--use-amp --no-amp", "--use-amp and --no-amp contradict each other"),
        ("--no-amp --autocast-dtype bf16", "--autocast-dtype has no effect with --no-amp"),
        ("--mix-prob 0.5", "--mix-prob has no effect without mixup or cutmix"),
        ("--dataset shapes --data-dir x", "--data-dir has no effect on shapes"),
        ("--dataset shapes --image-size 64", "shapes are drawn at 32 pixels, got --image-size=64"),
        ("--num-workers 20 --batch-size 10", "--batch-size must give each worker a sample"),
        ("--hang-timeout soon", "--hang-timeout: a duration must be seconds, or a number with a unit such as 90s"),
        ("--num-workers 0 --address auto", "--address has no effect with --num-workers=0"),
        ("--num-workers 4:2", "--num-workers must be a number, or MIN:MAX with 1 <= MIN <= MAX, got '4:2'"),
        ("--num-workers 0:2", "--num-workers must be a number, or MIN:MAX with 1 <= MIN <= MAX, got '0:2'"),
        ("--num-workers 2:20 --batch-size 10", "--batch-size must give each worker a sample"),
        ("--max-failures -1", "--max-failures must be greater than or equal to 0, got -1"),
    ],
)
def test_wrong_settings_end_with_code_2_and_one_message(capsys, flags, message):
    assert exit_code(train.main, flags.split()) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.startswith("error: ")
    assert "Traceback" not in errors


@pytest.mark.parametrize("flags", ["--epoch 3", "--dataset mnist", "--epochs many"])
def test_unknown_flags_and_values_end_with_code_2(flags):
    done = subprocess.run(
        [sys.executable, "-m", "jobs.train", *flags.split()], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        *[(None, 0), (KeyError("x"), 1), (InputError("x"), 2), (TrainingError("x"), 3)],
        *[(OutOfRetries("x"), 4), (Stopped(15), 143)],
    ],
)
def test_exit_codes_tell_what_happened(error, code, capsys):
    def main(argv):
        if error:
            raise error

    assert exit_code(main, []) == code


@pytest.mark.parametrize("number", TO_STOP)
def test_a_signal_lets_a_command_clean_up_and_gives_the_exit_code(number, capsys, tmp_path):
    """Also where a library answers by a KeyboardInterrupt of its own."""

    def main(argv):
        try:
            with staging(tmp_path / "results"):
                signal.raise_signal(number)
        except KeyboardInterrupt:
            signal.raise_signal(signal.SIGTERM)  # one more at the same time
            raise KeyboardInterrupt from None

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may have been started by nohup
    try:
        assert exit_code(main, []) == 128 + number
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
    assert f"interrupted by {number.name}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_was_started_to_ignore_a_closed_connection_does():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert exit_code(lambda argv: signal.raise_signal(signal.SIGHUP), []) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_elastic_number_of_workers_is_refused_under_torchrun(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    (tmp_path / "a.yaml").write_text("run: {num_workers: '1:2'}")
    assert exit_code(train.main, ["--config", str(tmp_path / "a.yaml")]) == 2
    assert "num_workers must be one number under torchrun, got 1:2" in capsys.readouterr().err


def test_data_that_are_not_there_are_named_with_what_to_do(tmp_path, capsys):
    flags = ["--dataset", "imagefolder", "--data-dir", str(tmp_path / "none"), "--num-workers", "0"]
    assert exit_code(train.main, [*flags, "--output-dir", str(tmp_path)]) == 2
    assert "put it there or pass another with --data-dir" in capsys.readouterr().err


def test_a_message_names_the_flags_that_were_typed_and_other_settings_by_their_names():
    message = "min_lr must not exceed lr, got min_lr=1.0, lr=0.002; see /data/min_lr"
    assert (
        as_typed(message, {"--min-lr"}) == "--min-lr must not exceed lr, got --min-lr=1.0, lr=0.002; see /data/min_lr"
    )
    assert as_typed("optim.lr must be greater than 0", {"--lr"}) == "--lr must be greater than 0"
    assert as_typed("optim.lr must be greater than 0", set()) == "optim.lr must be greater than 0"
