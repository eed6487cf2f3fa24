"""Tars as webdataset's `TarWriter` makes them: a member KEY.EXTENSION for each part of a sample, in sorted order."""

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Sample = tuple[str, dict[str, bytes]]  # its key, and the content of each extension
Labeling = Callable[[int, str], dict[str, bytes]]  # the members that say the number and the name of a class


def write_tar(path: Path, samples: Iterable[Sample], pax: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT) as tar:
        for key, parts in samples:
            for extension, content in sorted(parts.items()):
                add(tar, f"{key}.{extension}", content)
    return path


def add(tar: tarfile.TarFile, name: str, content: bytes = b"", **others) -> None:
    """A member; `others` are attributes of its header."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.uname, member.gname = len(content), 0o444, "bigdata", "bigdata"
    for attribute, value in others.items():
        setattr(member, attribute, value)
    tar.addfile(member, io.BytesIO(content))


def png(seed: int, size: int = 16) -> bytes:
    """An image of noise."""
    noise = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "png")
    return content.getvalue()


def numbered(*numbers: int) -> list[Sample]:
    """A sample of each class by its number; keys are their places."""
    return [(f"{place:06}", {"png": png(place), "cls": str(number).encode()}) for place, number in enumerate(numbers)]


def by_number(number: int, _: str) -> dict[str, bytes]:
    return {"cls": str(number).encode()}


def in_json(number: int, name: str) -> dict[str, bytes]:
    return {"json": json.dumps({"caption": f"a {name}", "label": number}).encode(), "txt": b"a caption"}


def named(_: int, name: str) -> dict[str, bytes]:
    return {"txt": f" {name}\n".encode()}


def samples_of(folder: Path, class_names: Sequence[str], label: Labeling = by_number) -> list[Sample]:
    """The images below class folders, those of them that there are; keys are their paths there."""
    return [
        (
            file.relative_to(folder).with_suffix("").as_posix(),
            {file.suffix[1:]: file.read_bytes(), **label(number, name)},
        )
        for number, name in enumerate(class_names)
        for file in sorted((folder / name).rglob("*.*"))
    ]


def write_tars(images: Path, output: Path, num_samples: int = 25, label: Labeling = by_number) -> Path:
    """Shards of an image folder with splits, in another order than the folder's, and `classes.txt`."""
    class_names = sorted(folder.name for folder in (images / "train").iterdir())
    for split in sorted(images.iterdir()):
        samples = samples_of(split, class_names, label)
        mixed = samples[::2] + samples[1::2][::-1]
        for number, start in enumerate(range(0, len(mixed), num_samples)):
            write_tar(output / f"{split.name}-{number:06}.tar", mixed[start : start + num_samples])
    return write_classes(output, *class_names)


def write_classes(output: Path, *class_names: str) -> Path:
    (output / "classes.txt").write_text("".join(f"{name}\n" for name in class_names))
    return output
