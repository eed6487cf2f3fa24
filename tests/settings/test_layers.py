"""Layers of settings: a value that any of them gives arrives in the settings, or is refused."""

import contextlib
import re
import typing
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from volo.cli.parse import parse_settings
from volo.errors import InputError
from volo.log import LOGGER
from volo.settings.config import SECTIONS, Settings, build_settings, left_behind
from volo.settings.model import FORMS
from volo.settings.sizes import VARIANTS

PLAIN = [None, True, False, 0, 1, 3, 12, 300, 0.25, "x", "5m", "1:2"]
PLAIN += [[1], [1, 2], [48, 96], [1, 1, 1, 1], [0.1, 0.2, 0.3], [0.25, 0.5], ["16:0.3", "24:0.6"]]
TAUGHT = {"model": {"variant": "volo_d1"}, "teaching": {"teacher": "x"}}
NEEDS: dict[str, dict[str, Any]] = {  # what must be set beside it for a setting to have an effect
    "mix_prob": {"augment": {"mixup_alpha": 0.5}},
    "class_depth": {"model": {"pooling": "cli"}},
    "rand_magnitude": {"augment": {"auto_augment": "rand"}},
    "freeze": {"optim": {"init_weights": "x"}},
    "crop_ratio": {"augment": {"crop_area": [0.5, 1]}},
    "autocast_dtype": {"optim": {"use_amp": True}},
    "resize": {"data": {"dataset": "imagefolder"}},
    "crop_pct": {"data": {"dataset": "imagefolder"}},
    "teacher": {"teaching": {"distillation": 0.5}},
    "distillation": {"teaching": {"teacher": "x"}},
    "token_labels": TAUGHT,
    "token_label_weight": TAUGHT | {"teaching": {"teacher": "x", "token_labels": True}},
    "mix_token": TAUGHT | {"teaching": {"teacher": "x", "token_labels": True}},
    **{name: {"model": {"variant": "volo_d1"}} for name in ("stem_dim", "layers", "embed_dims", "stage_heads")},
}


def fields_of(section: str) -> dict[str, Any]:
    sections = FORMS.values() if section == "model" else [Settings.model_fields[section].annotation]
    return {name: field for part in sections for name, field in part.model_fields.items()}


FIELDS = {(section, name): field for section in SECTIONS for name, field in fields_of(section).items()}


def literals(annotation: Any) -> list[Any]:
    """The values that an annotation names, at any depth; and pairs of them."""
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return [*parts, list(parts[:2])]
    return [value for part in parts for value in literals(part)]


def values_for(section: str, name: str) -> list[Any]:
    return [*PLAIN, *literals(FIELDS[section, name].annotation)]


def arrived(found: Settings, section: str, name: str, value: Any) -> bool:
    here = getattr(getattr(found, section), name, None)
    if (section, name, value) == ("model", "form", None):
        return here is not None
    plain = list(here) if isinstance(here, tuple) else here
    return plain == value or str(plain) == str(value)


@pytest.mark.parametrize(("section", "name"), FIELDS, ids=str)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_value_in_any_layer_arrives_or_is_refused(section, name, layer):
    """With none, an empty section and another setting of the section in the layers around it."""
    around = [{section: None}, {section: {}}, NEEDS.get(name, {})]
    num_accepted = 0
    for form in FORMS if section == "model" else (None,):
        for value in values_for(section, name):
            layers = [{"model": {"form": form}}, *around]
            layers.insert(layer + 1, {section: {name: value}})
            try:
                found = build_settings(*layers)
            except InputError:
                continue
            num_accepted += value is not None
            assert arrived(found, section, name, value), (form, value)
    assert num_accepted, "no value that was tried is one that this setting takes"


@st.composite
def some_layers(draw) -> list[dict[str, Any]]:
    layers = []
    for _ in range(draw(st.integers(1, 3))):
        layer: dict[str, Any] = {}
        for section, name in draw(st.lists(st.sampled_from(list(FIELDS)), max_size=3)):
            if draw(st.integers(0, 9)) == 0:
                layer[section] = draw(st.sampled_from([*PLAIN, *VARIANTS]))
            elif not isinstance(layer.setdefault(section, {}), dict):
                layer[section] = {}
            if isinstance(layer[section], dict):
                layer[section][name] = draw(st.sampled_from(values_for(section, name)))
        layers.append(layer)
    return layers


@settings(max_examples=400)
@given(some_layers())
def test_of_several_layers_the_topmost_value_arrives_or_all_are_refused_or_it_is_said(layers):
    try:
        found = build_settings(*layers)
    except InputError:
        return
    topmost: dict[tuple[str, str], Any] = {}
    for layer in layers:
        for section, value in layer.items():
            assert value is None or isinstance(value, dict) or (section == "model" and value in VARIANTS)
            inner = {"variant": value} if isinstance(value, str) else value or {}
            topmost |= {(section, name): one for name, one in inner.items()}
    lost = left_behind(*layers)
    for (section, name), value in topmost.items():
        is_default = value in (None, FIELDS[section, name].default)
        assert arrived(found, section, name, value) or is_default or name in lost.get(section, {})


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("value", ["hello", 5, 0, "", False, ["variant"], 2.5])
@pytest.mark.parametrize("layer", [0, 1])
def test_what_is_no_section_is_refused_with_the_form_to_write(section, value, layer):
    layers = [{}, {section: {}}]
    layers[layer] = {section: value}
    with pytest.raises(InputError) as refused:
        build_settings(*layers)
    said = str(refused.value)
    assert f"got {section}={value!r}; write {section}: " in said
    written = said.split("write ")[1].split(", or ")[-1].split(" with ")[0]
    assert isinstance(yaml.safe_load(written.replace(", ...", "").replace("...", "1"))[section], dict)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_name_of_a_variant_is_a_model_in_every_layer(variant, tmp_path):
    (tmp_path / "a.yaml").write_text(f"model: {variant}\noptim:\n")
    for found in (
        build_settings({"model": variant}),
        build_settings({"model": variant}, {"model": None}),
        build_settings({"model": {"variant": "nano", "drop_rate": 0.5}}, {"model": variant}),
        build_settings({"model": variant}, {"model": {"drop_rate": 0.1}}),
        parsed("--config", str(tmp_path / "a.yaml"), "--recipe", "tiny"),
    ):
        assert found.model.variant == variant
    assert build_settings({"model": {"drop_rate": 0.5}}, {"model": variant}).model.drop_rate == 0.5


def parsed(*argv: str) -> Settings:
    return parse_settings(argv, prog="train", description="")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe: ''", "--recipe must be one of"),
        ("recipe: 0", "--recipe must be one of"),
        ("recipe: [nano]", "--recipe must be one of"),
        ("model: {variant: [nano]}", "model.variant must be"),
        ("model: {form: ''}", "model.form must be one of flat, pyramid, published"),
        ("model: {form: 0}", "model.form must be one of flat, pyramid, published"),
        ("optim: {lr: 1}\noptim: {epochs: 3}", "'optim' is given twice"),
        ("optim: {lr: 1, epochs: 3, lr: 2}", "'lr' is given twice"),
        ("1: 2", "1"),
        ("optim: {1: 2}", "1"),
        ("lr: 0.5", "lr is no setting"),
        ("optim: {lr: }", "optim.lr must be a valid number, got None"),
        ("augment: hello\nmodel: small", "augment must be a section, got augment='hello'"),
    ],
)
def test_a_value_of_a_file_that_cannot_arrive_is_refused(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError) as refused:
        parsed("--config", str(tmp_path / "a.yaml"), "--epochs", "3")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("optim: {lr: 1}\n\noptim: {epochs: 3}", 3, "the key 'optim' is given twice"),
        ("optim:\n  lr: 1\n  lr: 2", 3, "the key 'lr' is given twice"),
        ("data:\n  mean: {a: 1, a: 2}", 2, "the key 'a' is given twice"),
        ("data:\n- 1", 1, "data must be a section, got data=[1]"),
        ("optim: {lr: 1}\nmodel: on", 2, "model must be a section, or one of"),
        ("optim:\n  epochs: 3\n  lr: on", 3, "optim.lr must be a valid number"),
        ("optim:\n  epochs: yes", 2, "optim.epochs must be a valid integer"),
        ("optim:\n  epochs: true", 2, "optim.epochs must not be true or false, got True"),
        ("model:\n  stem_channels: [8, true]", 2, "model.stem_channels must not be true or false"),
        ("model:\n  variant: off", 2, "model.variant must be 'quickstart'"),
        ("data:\n  mean: [no, off, on]", 2, "data.mean must be a valid number"),
        ("optim:\n  lr: 1:30.5", 2, "optim.lr must be a valid number"),
        ("optim:\n  lr: 2024-01-02", 2, "optim.lr must be a valid number"),
        ("optim:\n  lr: !!bool maybe", 2, "'maybe' cannot be read as bool"),
        ("optim:\n  lr: !!timestamp x", 2, "'x' cannot be read as timestamp"),
        ("optim:\n  epochs: " + "9" * 5000, 2, "cannot be read as int"),
        ("optim:\n  epochs: 0x" + "f" * 5000, 2, "got a number of 20,000 bits"),
        ("optim:\n  lr: 0.1\n  warmup: 3", 3, "optim.warmup is no setting"),
        ("optim:\n  min_lr: 1\n  lr: 0.5", 2, "min_lr must not exceed lr"),
        ("recipe: nano\n1: 2", 2, "a key must be a name, got '1'"),
        ("? [a]\n: 2", 1, "a key must be a name"),
        ("data:\nrecipe: [1]", 2, "--recipe must be one of"),
        ("data:\nrecipe: 5", 2, "--recipe must be one of"),
        ("a: &a [1]\nb: *a", 2, "aliases (*) are not read"),
        ("optim:\n  <<: {lr: 1}", 2, "merge keys (<<) are not read"),
        ("data:\n  " + "[" * 3000, 2, "nested at most 8 deep"),
    ],
)
def test_what_a_file_gives_wrongly_is_refused_with_its_line(tmp_path, text, line, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError) as refused:
        parsed("--config", str(tmp_path / "a.yaml"))
    said = str(refused.value)
    assert message in said
    assert re.findall(r"\blines? ([0-9, and]+)\b", said)[0].split()[0].rstrip(",") == str(line)
    assert "a.yaml" in said


def test_a_message_names_no_line_of_what_a_flag_gives_in_place_of_the_file(tmp_path):
    (tmp_path / "a.yaml").write_text("optim:\n  lr: 0.5\n  min_lr: 0.1\n")
    with pytest.raises(InputError, match=r"--min-lr must not exceed lr, .* \(line 2 of '.*a\.yaml'\)$"):
        parsed("--config", str(tmp_path / "a.yaml"), "--min-lr", "3")
    assert parsed("--config", str(tmp_path / "a.yaml"), "--lr", "3").optim.lr == 3


@pytest.mark.parametrize(
    ("text", "section", "name", "value"),
    [
        ("run: {run_name: no}", "run", "run_name", "no"),
        ("run: {run_name: 2024-01-01}", "run", "run_name", "2024-01-01"),
        ("run: {run_name: 0007}", "run", "run_name", "0007"),
        ("optim: {epochs: 010}", "optim", "epochs", 10),
        ("optim: {epochs: 1_000}", "optim", "epochs", 1000),
        ("optim: {lr: 1e-3}", "optim", "lr", 0.001),
        ("optim: {use_amp: yes}", "optim", "use_amp", True),
        ("optim: {use_amp: off}", "optim", "use_amp", False),
        ("run: {num_workers: 1:4}", "run", "num_workers", "1:4"),
    ],
)
def test_a_plain_value_of_a_file_is_what_it_says(tmp_path, text, section, name, value):
    (tmp_path / "a.yaml").write_text(text)
    assert getattr(getattr(parsed("--config", str(tmp_path / "a.yaml")), section), name) == value


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--config ", "--config must name a path, got ''"),
        ("--recipe ", "--recipe must be one of .*, got ''"),
        ("--config a.yaml --config b.yaml", "--config can be given once, got a.yaml and b.yaml"),
        ("--recipe nano --recipe=tiny", "--recipe can be given once, got nano and tiny"),
    ],
)
def test_a_layer_that_a_command_names_is_read_or_refused(tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("optim: {lr: 0.5}")
    with pytest.raises(InputError, match=message):
        parsed(*flags.split(" "))


def test_what_the_flags_take_from_a_file_by_choosing_another_form_is_said(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level("INFO", "volo")
    (tmp_path / "a.yaml").write_text("model: {embed_dim: 64, num_heads: 2, pooling: mean, drop_rate: 0.1}")
    file = ("--config", str(tmp_path / "a.yaml"))
    assert parsed(*file).model.embed_dim == 64
    assert parsed("--recipe", "imagenet-d1", "--model", "nano").model.form == "flat"
    assert not caplog.messages
    found = parsed(*file, "--hierarchical")
    assert (found.model.form, found.model.drop_rate) == ("pyramid", 0.1)
    assert caplog.messages == [
        "model.embed_dim=64 of --config has no effect on a pyramid",
        "model.num_heads=2 of --config has no effect on a pyramid",
    ]


def test_a_stem_that_whitens_gives_way_to_weights_to_start_from(tmp_path, caplog, monkeypatch):
    """Of a recipe; of a file it is said, and in one layer both are refused."""
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level("INFO", "volo")
    for flags in (["--init-weights", "x"], ["--init-weights", "x", "--freeze", "backbone"]):
        assert not parsed("--recipe", "photos", *flags).optim.whiten_stem
    assert not parsed("--recipe", "photos", "--resume-path", "x", "--freeze", "0").optim.whiten_stem
    assert not caplog.messages
    (tmp_path / "a.yaml").write_text("optim: {whiten_stem: true}")
    assert not parsed("--config", str(tmp_path / "a.yaml"), "--init-weights", "x").optim.whiten_stem
    said = "optim.whiten_stem=True of --config has no effect on the weights that training starts from"
    assert caplog.messages == [said]
    with pytest.raises(InputError, match="--whiten-stem has no effect with --init-weights"):
        parsed("--config", str(tmp_path / "a.yaml"), "--init-weights", "x", "--whiten-stem")


def test_every_flag_reaches_its_setting():
    """All of them but for those that exclude others, in as few commands as the forms of the model allow."""
    left_out = {
        "crop_area",
        "crop_ratio",
        "in_chans",
        "use_amp",
        "mix_token",
        "seeds",
        "address",
        "dashboard_host",
        "fresh",
        "resume_path",
    }
    in_common = ["--teacher", "x", "--distillation", "0.5", "--dataset", "imagefolder", "--mixup-alpha", "1"]
    seen = {"variant", "form", "dataset", "teacher", "pooling", "token_labels"}
    for form, flags in {
        "flat": ["--pooling", "cli"],
        "pyramid": ["--hierarchical"],
        "published": ["--model", "volo_d1", "--token-labels"],
    }.items():
        base = parsed(*flags, *in_common)
        argv: list[str] = []
        wanted: dict[tuple[str, str], Any] = {}
        for section in SECTIONS:
            for name in type(getattr(base, section)).model_fields:
                for value in () if name in left_out | seen else other_values(base, section, name, wanted):
                    wanted[section, name] = value
                    argv += as_flag(name, value)
                    break
        found = parsed(*flags, *in_common, *argv)
        assert found.model.form == form
        assert [key for key, value in wanted.items() if not arrived(found, *key, value)] == []
        seen |= {name for _, name in wanted}
    assert {name for _, name in FIELDS} - seen - left_out == set()


def other_values(base: Settings, section: str, name: str, wanted: dict[tuple[str, str], Any]) -> Iterator[Any]:
    """Values that a flag can give and the settings take beside those of `wanted`, other than the one they have."""
    layers = [{part: {key: value}} for (part, key), value in wanted.items()]
    kinds = bool if FIELDS[section, name].annotation is bool else (int, float, str, list)
    for value in reversed(values_for(section, name)):
        if value == getattr(getattr(base, section), name) or not isinstance(value, kinds):
            continue
        with contextlib.suppress(InputError):
            build_settings(base.to_dict(), *layers, {section: {name: value}})
            yield value


def as_flag(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
