"""Following the remedy for a refused image folder makes the folder acceptable."""

import re
import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import draw_folder
from volo.errors import InputError
from volo.runs.folder import open_data
from volo.settings.config import build_settings

CLASSES = {"cat": 12, "dog": 12}


@dataclass(frozen=True)
class Case:
    """`harm` makes a folder that is refused with `remedy` in the message; `follow` does what that says, and may return
    other settings of the data."""

    remedy: str
    harm: Callable[[Path], object]
    follow: Callable[[Path, str], object]
    settings: dict = field(default_factory=dict)


def drawn(**splits: dict[str, int]) -> Callable[[Path], object]:
    return lambda root: draw_folder(root, splits)


def renamed(root: Path, before: str, after: str) -> None:
    (root / before).rename(root / after)


def named_twice(root: Path) -> None:
    draw_folder(root, {"train": {"café": 12, **CLASSES}})
    draw_folder(root / "other", {"train": {"x": 12}})
    (root / "other" / "train" / "x").rename(root / "train" / unicodedata.normalize("NFD", "café"))
    shutil.rmtree(root / "other")


def damaged(root: Path) -> None:
    draw_folder(root, {"train": CLASSES})
    (root / "train" / "cat" / "0003.png").write_bytes(b"no image")


def twelve_bits(root: Path) -> None:
    draw_folder(root, {"train": CLASSES})
    Image.fromarray(np.array([[0, 4095]], np.uint16)).save(root / "train" / "cat" / "deep.png")


def in_eight_bits(root: Path, _: str) -> None:
    deep = root / "train" / "cat" / "deep.png"
    Image.fromarray((np.asarray(Image.open(deep)) // 16).astype(np.uint8)).save(deep)


CASES = {
    "upper case": Case("rename them", drawn(Train=CLASSES), lambda root, _: renamed(root, "Train", "train")),
    "two to validate on": Case(
        "remove or rename all but one", drawn(train=CLASSES, val=CLASSES, valid=CLASSES),
        lambda root, _: shutil.rmtree(root / "valid"),
    ),
    "nothing to train on": Case(
        "put it there", drawn(test=CLASSES), lambda root, _: draw_folder(root, {"train": CLASSES})
    ),
    "a folder too high": Case(
        "use --data-dir", lambda root: draw_folder(root / "flowers", {"train": CLASSES}),
        lambda root, said: dict(data_dir=re.search(r"use --data-dir (\S+)", said)[1]),
    ),
    "a class to test on alone": Case(
        "or remove them", drawn(train=CLASSES, test={"cat": 1, "owl": 1}),
        lambda root, _: shutil.rmtree(root / "test" / "owl"),
    ),
    "an empty class": Case(
        "or remove the folder", lambda root: (draw_folder(root, {"train": CLASSES}) / "train" / "owl").mkdir(),
        lambda root, _: (root / "train" / "owl").rmdir(),
    ),
    "one class": Case(
        "give every class a folder there", drawn(train={"cat": 12}),
        lambda root, _: draw_folder(root, {"train": {"dog": 12}}),
    ),
    "a class named twice": Case(
        "rename one", named_twice,
        lambda root, _: renamed(root, f"train/{unicodedata.normalize('NFD', 'café')}", "train/tea room"),
    ),
    "a fraction beside val": Case(
        "omit --val-fraction", drawn(train=CLASSES, val=CLASSES), lambda root, _: dict(val_fraction=None),
        dict(val_fraction=0.1),
    ),
    "a damaged image": Case("--skip-damaged", damaged, lambda root, _: dict(skip_damaged=True)),
    "gray of 12 bits": Case("convert the image to 8 bits", twelve_bits, in_eight_bits),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_remedy_is_accepted(tmp_path, name):
    case, root = CASES[name], tmp_path / "images"
    case.harm(root)

    def opened(values: dict) -> int:
        data = {"dataset": "imagefolder", "data_dir": str(root), "image_size": 8, **values}
        settings = build_settings({"model": {"variant": "quickstart"}, "data": data, "optim": {"batch_size": 4}})
        return len(open_data(settings.resolved(), is_new=True)[1].train)

    with pytest.raises(InputError) as refused:
        opened(case.settings)
    assert case.remedy in str(refused.value)
    followed = case.follow(root, str(refused.value))
    assert opened(followed if isinstance(followed, dict) else case.settings)
