import pytest
import yaml

from volo.errors import InputError
from volo.model.build import build_model
from volo.settings.config import build_settings, merge
from volo.settings.differences import differences, flatten
from volo.settings.model import FORMS
from volo.settings.recipes import RECIPES, recipe_settings
from volo.settings.yaml_files import read_yaml


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_its_model_and_says_what_to_expect(name):
    settings = build_settings(recipe_settings(name))
    assert sum(p.numel() for p in build_model(settings.model, num_classes=10, image_size=32).parameters()) > 0
    assert RECIPES[name]().expects
    assert RECIPES[name].__doc__


def test_later_layers_win_key_by_key():
    settings = build_settings(recipe_settings("nano"), {"optim": {"epochs": 7}}, {"optim": {"lr": 0.5}})
    assert (settings.optim.epochs, settings.optim.lr, settings.model.variant) == (7, 0.5, "nano")
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}) == {"a": {"b": 3, "c": 2}}


def test_resolving_twice_changes_nothing_and_yaml_brings_it_all_back():
    resolved = build_settings(recipe_settings("tiny")).resolved()
    assert resolved.resolved() == resolved
    assert build_settings(yaml.safe_load(resolved.to_yaml())).to_dict() == resolved.to_dict()
    assert None not in {resolved.data.data_dir, resolved.augment.crop_padding, resolved.optim.warmup_epochs}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optim": {"epochs": 0}}, "optim.epochs must be greater than or equal to 1, got 0"),
        ({"optim": {"weight-decay": 3}}, "optim.'weight-decay' is no setting, got optim.'weight-decay'=3; known here:"),
        ({"\x1b[31mfoo": 3}, r"'\x1b[31mfoo' is no setting, got '\x1b[31mfoo'=3; known here: augment"),
        ({"optim": {"epoch": 3}}, "optim.epoch is no setting, got optim.epoch=3; known here: autocast_dtype"),
        ("quickstart", "settings must be a dictionary of sections, got 'quickstart'; give {'data': {...}, ...}, or"),
        (None, "settings must be a dictionary of sections, got None"),
        ([("data", {})], "settings must be a dictionary of sections, got [('data', {})]"),
        ({1: {}}, "keys must be strings, got 1"),
        ({"optim": {"lr": "fast"}}, "optim.lr must be a valid number"),
        ({"optim": {"lr": float("nan")}}, "optim.lr must be a finite number"),
        ({"model": {"variant": "huge"}}, "model.variant must be 'quickstart', 'nano'"),
        ({"augment": {"mix_prob": 0.5}}, "mix_prob has no effect without mixup or cutmix"),
        ({"optim": {"use_amp": False, "autocast_dtype": "bf16"}}, "autocast_dtype has no effect with --no-amp"),
        ({"data": {"dataset": "shapes", "data_dir": "x"}}, "data_dir has no effect on shapes"),
        ({"data": {"dataset": "shapes"}, "augment": {"auto_augment": "trivial"}}, "auto_augment changes colors"),
        ({"augment": {"auto_augment": "huge"}}, "augment.auto_augment must be 'none', 'trivial' or 'rand', got 'huge'"),
        ({"augment": {"random_erasing": 1.5}}, "augment.random_erasing must be less than or equal to 1, got 1.5"),
        ({"data": {"image_size": 2}}, "image_size must be at least patch_size, got image_size=2, patch_size=4"),
        ({"data": {"train_images": 10}}, "batch_size must not exceed the training images, got batch_size=256"),
        ({"run": {"num_workers": 0, "address": "auto"}}, "address has no effect with num_workers=0"),
        ({"run": {"fresh": True, "resume_path": "x"}}, "give one of them"),
        ({"run": {"run_name": "../x"}}, "run_name must name a folder below output_dir"),
        ({"optim": {"epochs": 2, "warmup_epochs": 3}}, "warmup_epochs must be less than epochs"),
        ({"optim": {"min_lr": 1.0}}, "min_lr must not exceed lr"),
    ],
)
def test_wrong_values_are_refused_with_rule_and_value(values, message):
    with pytest.raises(InputError) as refused:
        build_settings(values)
    assert message in str(refused.value)


def test_a_number_of_workers_may_be_a_range_on_the_way_through_a_file_too(tmp_path):
    (tmp_path / "a.yaml").write_text("run:\n  num_workers: 1:4\n")  # 64 in YAML 1.1
    settings = build_settings(read_yaml(tmp_path / "a.yaml"))
    assert (settings.run.num_workers, settings.run.min_workers, settings.run.max_workers) == ("1:4", 1, 4)
    (tmp_path / "a.yaml").write_text(settings.resolved().to_yaml())
    assert build_settings(read_yaml(tmp_path / "a.yaml")).to_dict() == settings.resolved().to_dict()


def test_differences_name_what_changed_after_resolving():
    one = build_settings({"optim": {"epochs": 20}})
    two = build_settings({"optim": {"epochs": 40}, "data": {"data_dir": "data/cifar100"}})
    assert differences(one, two) == {"optim.epochs": (20, 40), "optim.warmup_epochs": (1.0, 2.0)}


@pytest.mark.parametrize("text", ["- a list", "a: [", "\x00"])
def test_a_file_that_holds_no_settings_is_refused(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError, match="--config must"):
        read_yaml(tmp_path / "a.yaml")
    with pytest.raises(InputError, match="readable YAML file"):
        read_yaml(tmp_path / "none.yaml")


def test_every_setting_has_a_description():
    from volo.settings.config import Settings

    sections = [field.annotation for name, field in Settings.model_fields.items() if name not in ("recipe", "model")]
    for section in (*sections, *FORMS.values()):
        assert all(field.description for field in section.model_fields.values()), section
    assert "optim.lr" in flatten(build_settings().to_dict())
