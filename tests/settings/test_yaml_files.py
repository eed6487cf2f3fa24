"""Settings files: what is written to be read again holds what was given, and shows what was derived."""

import re

import pytest
import yaml

from tests.training.runs import small_run
from tests.training.runs import train as train_run
from tests.tuning.sweeps import base, opened, play
from volo.cli import train
from volo.cli.outcome import exit_code
from volo.cli.parse import parse_settings
from volo.errors import InputError
from volo.runs import checkpoint
from volo.runs.listing import CONFIG, read_run
from volo.settings.config import build_settings
from volo.settings.differences import flatten
from volo.settings.recipes import RECIPES, recipe_settings
from volo.settings.yaml_files import read_yaml
from volo.tuning.results import BEST_CONFIG, write_results
from volo.tuning.winner import take_over, winner_settings

# What is not given, by its dotted name in a settings file.
DERIVED = {
    *("model.form", "model.embed_dim", "model.stem_channels", "model.outlook_stride", "data.data_dir", "data.mean"),
    *("data.std", "augment.crop_padding", "augment.mix_prob", "optim.warmup_epochs", "run.run_name"),
}


def parsed(*argv: str):
    return parse_settings(argv, prog="train", description="")


def dumped(tmp_path, capsys, *argv: str) -> list[str]:
    """The flags that name a file of what `--print-config` prints."""
    capsys.readouterr()
    assert parsed(*argv, "--print-config") is None
    path = tmp_path / "printed.yaml"
    path.write_text(capsys.readouterr().out)
    return ["--config", str(path)]


def test_a_printed_file_holds_what_was_given_and_shows_what_was_derived(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["--recipe", "small", "--data-dir", "images", "--dataset", "imagefolder"]
    file = dumped(tmp_path, capsys, *given)
    text = (tmp_path / "printed.yaml").read_text()
    values = flatten(read_yaml(file[1]))
    assert {name for name in DERIVED if values[name] is not None} == {"data.data_dir"}
    assert (values["model.drop_path_rate"], values["recipe"]) == (0.1, "small")
    assert (values["data.data_dir"], values["run.output_dir"]) == (str(tmp_path / "images"), str(tmp_path / "outputs"))
    assert "  warmup_epochs: null  # 6.5, a twentieth of the epochs\n" in text
    assert "  stem_channels: null  # [64, 128], of small\n" in text
    assert '  form: null  # "flat", of small\n' in text
    monkeypatch.chdir("/")
    assert parsed(*file).data.data_dir == str(tmp_path / "images")


@pytest.mark.parametrize(
    ("given", "above"),
    [
        ("--recipe small", "--epochs 10"),
        ("--recipe small", "--model nano"),
        ("--recipe small", "--model volo_d1"),
        ("--recipe small", "--hierarchical"),
        ("--model volo_d1", "--model nano --hierarchical"),
        ("--model volo_d2 --input-size 64", "--model volo_d1"),
        ("--pooling cli", "--pooling mean"),
        ("--recipe tiny", "--mixup-alpha 0 --cutmix-alpha 0"),
        ("--recipe nano", "--image-size 96"),
        ("--dataset cifar100", "--dataset cifar10"),
        ("--dataset cifar100", "--dataset shapes"),
        ("--dataset cifar10 --mean 0.5 0.5 0.5", "--dataset cifar100"),
        ("--hierarchical --model tiny", "--no-hierarchical --run-name x"),
        ("--warmup-epochs 2", "--epochs 10"),
    ],
)
def test_flags_over_a_dumped_file_mean_what_they_mean_over_what_it_was_dumped_of(tmp_path, capsys, given, above):
    file = dumped(tmp_path, capsys, *given.split())
    assert parsed(*file).resolved() == parsed(*given.split()).resolved()
    assert parsed(*file, *above.split()).resolved() == parsed(*given.split(), *above.split()).resolved()
    again = dumped(tmp_path, capsys, *file)
    assert parsed(*again, *above.split()).resolved() == parsed(*given.split(), *above.split()).resolved()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_comes_back_from_its_file_and_from_a_resolved_one(name):
    settings = build_settings(recipe_settings(name))
    assert build_settings(yaml.safe_load(settings.to_yaml())).resolved() == settings.resolved()
    assert build_settings(yaml.safe_load(settings.resolved().to_yaml())).to_dict() == settings.resolved().to_dict()


def test_odd_paths_come_back_from_a_file(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("a b #c", "a: b", "[x]", "ä 'q' \"r\"", "1e3", "~", "x" * 250):
        file = dumped(tmp_path, capsys, "--output-dir", place, "--run-name", "0007", "--num-workers", "1:4")
        found = parsed(*file)
        assert found.run_dir == parsed("--output-dir", place, "--run-name", "0007").run_dir
        assert found.run.num_workers == "1:4"


def test_a_runs_own_file_resumes_it_and_lets_a_new_run_derive_its_values(tmp_path, folder):
    run_dir = train_run(small_run(tmp_path, folder, optim=dict(max_steps=2)))
    text = (run_dir / CONFIG).read_text()
    assert re.search(r"warmup_epochs: null  # 0\.15, a twentieth", text)
    assert read_run(run_dir).of_epochs == 3
    file = ["--config", str(run_dir / CONFIG)]
    assert parsed(*file, "--epochs", "40").resolved().optim.warmup_epochs == 2
    with pytest.raises(InputError, match=r"optim\.epochs: 3 before, 4 now"):
        train_run(parsed(*file, "--epochs", "4"))
    assert train_run(parsed(*file, "--max-steps", "3")) == run_dir
    assert checkpoint.newest(run_dir).name == "step_00000003"


def test_a_run_whose_file_is_of_an_earlier_version_resumes_with_it(tmp_path, folder):
    settings = small_run(tmp_path, folder, optim=dict(max_steps=2))
    run_dir = train_run(settings)
    (run_dir / CONFIG).write_text(yaml.safe_dump(settings.resolved().to_dict(), sort_keys=False))
    assert train_run(parsed("--config", str(run_dir / CONFIG), "--max-steps", "3")) == run_dir
    assert read_run(run_dir).of_epochs == 3
    assert train_run(small_run(tmp_path, folder, optim=dict(max_steps=4))) == run_dir
    assert checkpoint.newest(run_dir).name == "step_00000004"


def test_the_files_of_a_sweep_and_of_its_winner_keep_nothing_derived(tmp_path):
    settings = base(epochs=20, data={"dataset": "cifar10"})
    study = play(opened(tmp_path, settings=settings, num_samples=2, pruner="none"))
    write_results(study)
    take_over(study, winner := winner_settings(study))
    trial = build_settings(study.settings_of(1, {"optim": {"lr": 0.5}}).located().to_dict())  # as sent to its process
    (tmp_path / "trial.yaml").write_text(trial.to_yaml())
    for path in (tmp_path / BEST_CONFIG, winner.run_dir / CONFIG, tmp_path / "trial.yaml"):
        found = parsed("--config", str(path), "--epochs", "200", "--model", "nano", "--image-size", "64").resolved()
        assert found.optim.warmup_epochs == 10
        assert (found.model.embed_dim, found.augment.crop_padding) == (96, 8)
    for path in (tmp_path / BEST_CONFIG, winner.run_dir / CONFIG):
        assert parsed("--config", str(path), "--dataset", "cifar100").resolved().data.data_dir.endswith("/cifar100")


def test_print_config_ends_with_code_0_and_prints_yaml_alone(capsys):
    assert exit_code(train.main, ["--recipe", "imagenet-d1", "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["variant"] == "volo_d1"
