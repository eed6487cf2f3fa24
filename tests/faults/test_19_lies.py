"""Row 19: files that would take more memory or time than they look like, or that lie about what is in them: refused at
once, with the file's name, whatever command is given them. Cells of tables: tests/test_tables.py."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.conftest import draw_folder
from tests.faults.test_08_pickles import train_flags
from tests.faults.tools.limited import GIB, Ending, run_limited
from tests.models import save_model
from volo.runs import checkpoint

REFUSED = 2
APPLYING = ["volo.analysis.predict", "volo.analysis.export", "volo.analysis.job", "volo.training.launch"]

ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 12))
BOMBS = {
    "aliases": ALIASES,
    "aliases in a setting": ALIASES + "data: {mean: *a11}\n",
    "merge keys": MERGES,
    "an alias of itself": "optim: &a {lr: *a}\n",
    "nested lists": "optim: " + "[" * 3000,
    "nested sections": "optim: " + "{a: " * 3000,
    "nested lines": "- " * 3000,
    "nested keys": "? " * 3000,
    "a large file": "# " + "x" * 50_000_000,
    "many settings": "optim: {" + ", ".join(f"k{n}: {n}" for n in range(6000)) + "}",
    "a long list": "data: {mean: [" + "1, " * 30_000 + "1]}",
    "a long text": "run: {run_name: '" + "a b " * 24_000 + "'}",
    "a long number": "optim: {epochs: " + "9" * 90_000 + "}",
    "no recipe": "recipe: [1]",
}


@pytest.fixture(scope="module")
def refused_bombs(tmp_path_factory) -> dict[str, tuple[Path, Ending]]:
    folder = tmp_path_factory.mktemp("bombs")
    files = {name: folder / f"{number}.yaml" for number, name in enumerate(BOMBS)}
    for name, file in files.items():
        file.write_text(BOMBS[name])
    files["no end"] = Path("/dev/zero")
    commands = [["train", "--config", str(file)] for file in files.values()]
    endings = run_limited(commands, cpu_s=20, memory=GIB // 4)
    return {name: (file, ending) for (name, file), ending in zip(files.items(), endings, strict=True)}


@pytest.mark.parametrize("bomb", [*BOMBS, "no end"])
def test_a_settings_file_that_would_grow_is_refused_by_name_in_a_few_lines(refused_bombs, bomb):
    file, ending = refused_bombs[bomb]
    assert ending.code == REFUSED
    assert str(file) in ending.said
    assert len(ending.said) < 4000 and ending.said.count("error: ") == 1


def edited(**changes: Any) -> Callable[[dict], None]:
    """A change of some of the description's values, `config__model__embed_dim=...` for one of the settings."""

    def edit(values: dict) -> None:
        for name, value in changes.items():
            *sections, last = name.split("__")
            place = values
            for section in sections:
                place = place[section]
            place[last] = value

    return edit


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def shared(depth: int) -> list:
    """Small in a pickle; a walk of it would not end."""
    value: list = [1]
    for _ in range(depth):
        value = [value] * 20
    return value


LIES = {
    "wide": edited(config__model__embed_dim=200_000),
    "deep": edited(config__model__global_depth=1_000_000, config__model__local_depth=1_000_000),
    "a deep stem": edited(config__model__stem_depth=10_000_000),
    "wide inside": edited(config__model__mlp_ratio=1e300),
    "large windows": edited(config__model__kernel_size=10**6 + 1),
    "large images": edited(config__data__image_size=16_384),
    "larger images": edited(config__data__image_size=10**9),
    "many heads": edited(config__model__num_heads=2**62, config__model__embed_dim=2**62),
    "huge numbers": edited(config__model__embed_dim=10**400),
    "another form": edited(config__model=dict(variant="volo_d5")),
    "a block less": edited(config__model__global_depth=0),
    "many classes": edited(class_names=[f"class {number}" for number in range(20_000)]),
    "a class twice": edited(class_names=["cat", "dog", "cat "]),
    "classes of another kind": edited(class_names={"cat": 1}),
    "a class without a name": edited(class_names=["cat", "dog", ""]),
    "a class that colors the terminal": edited(class_names=["cat", "dog", "\x1b[31mowl"]),
    "a long class name": edited(class_names=["cat", "dog", "x" * 100_000]),
    "a negative step": edited(step=-1),
    "a step that is none": edited(step="ten"),
    "a huge step": edited(step=10**400),
    "an epoch that is none": edited(epoch=[1]),
    "a schema that is none": edited(schema_version="one"),
    "schema 0": edited(schema_version=0),
    "a later schema": edited(schema_version=99),
    "a hash that is none": edited(split_hash="x" * 100_000),
    "many settings": edited(config__optim={f"k{number}": number for number in range(20_000)}),
    "a long stem": edited(config__model__stem_channels=[8] * 20_000),
    "no settings": edited(config=None),
}
LIES_OF_PT = {
    "nested settings": edited(config__model__stem_channels=nested(150)),
    "shared settings": edited(config__model__stem_channels=shared(50)),
    "a shared form": edited(config__model__form=shared(50)),
    "a shared duration": edited(config__run__hang_timeout=shared(50), config__run__checkpoint_every=shared(50)),
    "shared classes": edited(class_names=shared(50)),
}


def with_description(file: Path, source: Path, edit: Callable[[dict], None]) -> Path:
    """The model file `source` with other values in its description, as a .safetensors or .pt."""
    values, weights = read(source)
    edit(values)
    if file.suffix == ".pt":
        torch.save({**values, "model": weights}, file)
    else:
        metadata = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
        safetensors.torch.save_file(weights, file, metadata)
    return file


def read(source: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    weights, description = checkpoint.load_model(source)
    return description.to_plain(), weights


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("lies") / "run", ("cat", "dog", "owl")) / checkpoint.MODEL


def expanded(file: Path, source: Path) -> None:
    """A wide model, of whose tensors each is one number, repeated."""
    values, weights = read(source)
    edited(config__model__embed_dim=200_000)(values)
    wide = {name: [200_000 if size == 32 else size for size in tensor.shape] for name, tensor in weights.items()}
    torch.save({**values, "model": {name: torch.zeros(1).expand(shape) for name, shape in wide.items()}}, file)


def repeated(file: Path, source: Path) -> None:
    """One tensor of 4 MB under 2,000 names, which would take 8 GB if each were copied."""
    values, _ = read(source)
    tensor = torch.zeros(2**20)
    torch.save({**values, "model": {f"w{number}": tensor.view(2**20) for number in range(2000)}}, file)


def compressed(file: Path, source: Path) -> None:
    values, weights = read(source)
    torch.save({**values, "model": {**weights, "more": torch.zeros(2**22)}}, file.with_suffix(".plain"))
    with zipfile.ZipFile(file.with_suffix(".plain")) as before, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as now:
        for name in before.namelist():
            now.writestr(name, before.read(name))
    os.unlink(file.with_suffix(".plain"))


def allocating(file: Path, source: Path, legacy: bool = False) -> None:
    """`bytearray` is a function that PyTorch lets a pickle call; here with ten gigabytes."""
    values, _ = read(source)

    class Bytes:
        def __reduce__(self):
            return bytearray, (10 * GIB,)

    torch.save({**values, "model": Bytes()}, file, _use_new_zipfile_serialization=not legacy)


def numbered(file: Path, source: Path) -> None:
    """Tensors that have numbers for names."""
    values, weights = read(source)
    torch.save({**values, "model": dict(enumerate(weights.values())) | weights}, file)


FORGED: dict[str, Callable[[Path, Path], None]] = {
    "one number repeated": expanded,
    "one tensor under many names": repeated,
    "compressed": compressed,
    "numbers for names": numbered,
    "a call that allocates": allocating,
    "a call that allocates, before 2020": lambda file, source: allocating(file, source, legacy=True),
}


def lying_files(folder: Path, model: Path) -> dict[str, Path]:
    files = {}
    for suffix, lies in ((".safetensors", LIES), (".pt", LIES | LIES_OF_PT)):
        for number, (name, edit) in enumerate(lies.items()):
            files[name + suffix] = with_description(folder / f"{number}{suffix}", model, edit)
    text = {name: value if isinstance(value, str) else json.dumps(value) for name, value in read(model)[0].items()}
    files["nested.safetensors"] = folder / "nested.safetensors"
    safetensors.torch.save_file(read(model)[1], files["nested.safetensors"], {**text, "config": "[" * 100_000})
    for number, (name, forge) in enumerate(FORGED.items()):
        files[name] = folder / f"forged{number}.pt"
        forge(files[name], model)
    return files


def lying_run(folder: Path, model: Path, lone: Path) -> Path:
    """A run whose checkpoint holds `lone`, and a manifest that agrees."""
    run_dir = shutil.copytree(model.parents[2], folder / "run")
    [saved] = (run_dir / "checkpoints").iterdir()
    shutil.copy(lone, saved / checkpoint.MODEL)
    manifest = checkpoint.Manifest.read(saved / checkpoint.MANIFEST)
    manifest.files[checkpoint.MODEL] = checkpoint._fingerprint(lone.read_bytes())
    (saved / checkpoint.MANIFEST).write_text(manifest.to_text())
    return run_dir


def commands_on(lying: Path, folder: Path, images: Path) -> dict[str, list[str]]:
    """Every command that builds a model from what a file says."""
    flags, out = train_flags(folder, images), str(folder / "out")
    applied = ["--checkpoint", str(lying), "--num-workers", "0"]
    return {
        "predict": ["predict", *applied, "--input", str(images), "--output", f"{out}.csv"],
        "analyze": ["analyze", *applied, "--no-show", "--output-dir", out],
        "export": ["export", "--checkpoint", str(lying), "--output", f"{out}.pt2"],
        "train --teacher": ["train", *flags, "--teacher", str(lying), "--distillation", "0.5"],
        "train --init-weights": ["train", *flags, "--init-weights", str(lying)],
        "train --resume-path": ["train", *flags, "--resume-path", str(lying)],
    }


COMMANDS = ("predict", "analyze", "export", "train --teacher", "train --init-weights", "train --resume-path")


@pytest.fixture(scope="module")
def refused_lies(model, tmp_path_factory) -> dict[str, tuple[Path, Ending]]:
    """What `volo predict` says to each file, and every command to two of them, alone and in a run."""
    folder = tmp_path_factory.mktemp("lies")
    images = draw_folder(folder / "images", {"train": {"cat": 8, "dog": 8, "owl": 8}, "test": {"cat": 1}})
    files = lying_files(folder, model)
    given = {name: (file, commands_on(file, folder, images)["predict"]) for name, file in files.items()}
    wide = files["wide.safetensors"]
    for kind, file in (("file", wide), ("run", lying_run(folder, model, wide))):
        given |= {f"{name} {kind}": (file, argv) for name, argv in commands_on(file, folder, images).items()}
    endings = run_limited([argv for _, argv in given.values()], cpu_s=60, memory=4 * GIB, imports=APPLYING)
    assert not [*folder.glob("out"), *folder.glob("out.*"), *folder.glob("outputs/**/step_*")]
    return {name: (file, ending) for (name, (file, _)), ending in zip(given.items(), endings, strict=True)}


ALL_LIES = [
    *(f"{name}.safetensors" for name in LIES),
    *(f"{name}.pt" for name in LIES | LIES_OF_PT),
    "nested.safetensors",
    *FORGED,
]


@pytest.mark.parametrize("lie", ALL_LIES)
def test_a_model_file_that_lies_is_refused_by_name_before_memory_is_taken(refused_lies, lie):
    file, ending = refused_lies[lie]
    assert ending.code == REFUSED, ending.said
    assert str(file) in ending.said
    assert len(ending.said) < 4000 and ending.said.count("error: ") == 1


@pytest.mark.parametrize("kind", ["file", "run"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_builds_a_model_from_a_file_refuses_one_that_lies(refused_lies, command, kind):
    file, ending = refused_lies[f"{command} {kind}"]
    assert ending.code == REFUSED, ending.said
    assert str(file) in ending.said
