"""A table of files and classes in place of class folders: read as people write it, refused line by line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.docs.pages import blocks
from tests.training.runs import same, small_run, train, weights
from volo.data.folders.imagefolder import ImageFolder
from volo.data.folders.layout import NoTestSplit
from volo.data.packed.packing import pack
from volo.data.packed.source import PackedFolder
from volo.errors import InputError


@pytest.fixture
def loose(tmp_path) -> Path:
    """Forty images of two colours that lie in one folder."""
    folder = tmp_path / "loose"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(40):
        noise = rng.integers(0, 60, (20, 20, 3), dtype=np.uint8)
        noise[..., number % 2] += 150
        Image.fromarray(noise).save(folder / "images" / f"{number:02}.png")
    return folder


def write(folder: Path, *lines: str, encoding: str = "utf-8") -> Path:
    (folder / "labels.csv").write_bytes("\n".join(lines).encode(encoding))
    return folder


def rows(*, classes=("cat", "dog"), ends=("",)) -> list[str]:
    return [f"images/{number:02}.png,{classes[number % 2]}{ends[number % len(ends)]}" for number in range(40)]


def named(source) -> dict[str, str]:
    return {
        Path(file.name).name: source.class_names[label] for file, label in zip(source.files, source.labels, strict=True)
    }


def test_a_table_gives_each_file_its_class_and_a_split_that_this_project_makes(loose):
    write(loose, "file,class", *rows())
    parts = [ImageFolder(loose, split, 8) for split in ("train", "test")]
    found = named(parts[0]) | named(parts[1])
    assert found == {f"{number:02}.png": ("cat", "dog")[number % 2] for number in range(40)}
    assert len(parts[0].labels) + len(parts[1].labels) == 40
    assert "labels.csv has no column split: 10% of each class, chosen by file name" in parts[0].notes[0]


def test_splits_that_the_table_names_are_taken(loose):
    write(loose, "file,class,split", *rows(ends=(",train", ",train", ",valid", ",train", ",Test")))
    source, tests = ImageFolder(loose, "train", 8), ImageFolder(loose, "test", 8)
    assert (len(source.labels), len(source.held_out), len(tests.labels)) == (32, 8, 8)
    assert {Path(source.files[number].name).name for number in source.held_out} == {
        f"{n:02}.png" for n in range(2, 40, 5)
    }
    assert "8 validation images" in source.notes[0]


def test_the_table_in_the_documents_is_one(loose):
    (text,) = [block.text for block in blocks("docs/own-data.md") if block.language == "csv"]
    for name in ("0001", "0002"):
        Image.effect_noise((8, 8), 9).save(loose / "images" / f"{name}.jpg")
    write(loose, text, "images/00.png,bird,train")
    assert ImageFolder(loose, "train", 8).class_names == ("bird", "cat")
    with pytest.raises(InputError, match=r"test must have no classes that train lacks, got .*'dog, a large one'"):
        ImageFolder(loose, "test", 8)


@pytest.mark.parametrize(
    "text",
    [
        "file;class\nimages/00.png;cat, the small one\nimages/01.png;dog",
        "class\tfile\tby\ncat, the small one\timages/00.png\tme\ndog\timages/01.png\tyou",
        '\ufefffile,class\r\nimages/00.png,"cat, the small one"\r\n\r\nimages/01.png,dog\r\n',
    ],
)
def test_tables_are_read_as_programs_write_them(loose, text):
    write(loose, text)
    assert set(ImageFolder(loose, "train", 8).class_names) == {"cat, the small one", "dog"}


def test_every_wrong_line_is_named(loose):
    write(
        loose,
        "file,class,split",
        "images/00.png,cat,train",
        *("images/99.png,cat,train", "../x.png,cat,train", "/etc/passwd,cat,train", "images/00.png,dog,train"),
        *("images/01.png,,train", "images/02.png,dog,later", ",dog,train"),
    )
    with pytest.raises(InputError, match=r"must name a file below .* got 7 that do not: line 3: no file") as error:
        ImageFolder(loose, "train", 8)
    said = str(error.value)
    parts = [
        *("line 4: '../x.png' does not lie below", "line 5: '/etc/passwd' does not lie"),
        *("line 6: 'images/00.png' a second time", "line 7: '' is no name"),
        *("line 8: split 'later' is none of train, test, val", "line 9: no file"),
    ]
    for part in parts:
        assert part in said


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["images/00.png,cat"], "must be a table in UTF-8 .* its first line must name the columns file and class"),
        ([""], "its first line must name"),
        (["file,class", "images/00.png,cat"], "at least two classes, got 1 in .*labels.csv"),
        (["file,class,split", "images/00.png,cat,test"], "must have images to train on, got none"),
        (["file,class,split", *rows(ends=(",train",)), "labels.csv,bird,test"], "test must have no classes that train"),
    ],
)
def test_a_table_that_is_no_data_set_is_refused(loose, lines, said):
    write(loose, *lines)
    with pytest.raises(InputError, match=said):
        ImageFolder(loose, "test" if "bird" in lines[-1] else "train", 8)


def test_without_test_rows_there_is_no_test_split(loose):
    write(loose, "file,class,split", *rows(ends=(",train",)))
    with pytest.raises(NoTestSplit, match="must have images in split test, got none"):
        ImageFolder(loose, "test", 8)


def test_training_on_a_table_notices_a_class_that_was_changed(tmp_path, loose):
    write(loose, "file,class", *rows())
    found = train(small_run(tmp_path, loose, optim=dict(batch_size=8, max_steps=2)))
    name = Path(ImageFolder(loose, "train", 8).files[0].name).name  # a cat: classes are sorted
    changed = [row.replace("cat", "dog") if name in row else row for row in rows()]
    write(loose, "file,class", *changed)
    with pytest.raises(InputError, match=rf"1 moved \(images/{name} as cat to images/{name} as dog"):
        train(small_run(tmp_path, loose, optim=dict(batch_size=8)))
    write(loose, "file,class", *rows())
    whole = train(small_run(tmp_path, loose, optim=dict(batch_size=8), run=dict(run_name="whole")))
    assert same(weights(train(small_run(tmp_path, loose, optim=dict(batch_size=8)))), weights(whole))
    assert found.name == "run"


def test_a_table_is_packed_as_folders_are(tmp_path, loose):
    write(loose, "file,class,split", *rows(ends=(",train", ",train", ",val", ",train", ",test")))
    pack(loose, tmp_path / "packed", 10**6)
    for split in ("train", "test"):
        one, two = ImageFolder(loose, split, 8), PackedFolder(tmp_path / "packed", split, 8)
        assert two.contents().digest == one.contents().digest
        assert two.labels.tolist() == one.labels.tolist()
