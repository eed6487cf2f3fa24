"""Training on packed images gives the weights that training on their folder gives; a run may go on with either."""

import pytest

from tests.training.runs import losses, same, small_run, train, weights
from volo.cli import analyze
from volo.cli.outcome import exit_code
from volo.data.packed.packing import pack
from volo.doctor.data import check_data
from volo.errors import InputError
from volo.runs.records import read_records
from volo.tables import read_table

CUT = dict(crop_area=(0.3, 1.0))


@pytest.fixture
def packed(folder, tmp_path):
    pack(folder, tmp_path / "packed", 20_000)
    return tmp_path / "packed"


@pytest.mark.parametrize("augment", [{}, CUT], ids=["decoded", "cut"])
def test_packed_images_give_the_weights_that_the_folder_gives(tmp_path, folder, packed, augment):
    whole = train(small_run(tmp_path, folder, augment=augment, run=dict(run_name="whole")))
    for place, stop in ((packed, 5), (folder, 8), (packed, None)):
        moved = train(small_run(tmp_path, place, augment=augment, optim=dict(max_steps=stop), run=dict(num_readers=1)))
    assert same(weights(moved), weights(whole))
    assert losses(moved) == losses(whole)


def test_a_shard_whose_bytes_changed_is_named_before_the_first_step(tmp_path, packed, monkeypatch):
    """Unless the node has checked the same images before: then when they are read."""
    monkeypatch.setenv("VOLO_CACHE_DIR", str(tmp_path / "cache"))
    shard = packed / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    content[700] ^= 1  # of the first image
    shard.write_bytes(content)
    with pytest.raises(InputError, match=r"1 of \d+ that is not(?s:.*)train-000000.tar has other bytes"):
        train(small_run(tmp_path, packed, augment=CUT))
    found = train(small_run(tmp_path, packed, augment=CUT, data=dict(skip_damaged=True)))
    assert "train-000000.tar" not in (notes := next(iter(read_records(found)))["text"])
    assert "1 damaged images are left out" in notes


def test_packed_images_are_analyzed_by_their_names_and_looked_at_by_doctor(tmp_path, folder, packed):
    settings = small_run(tmp_path, packed, optim=dict(max_steps=4))
    flags = ["--checkpoint", str(train(settings)), "--num-workers", "0", "--no-show", "--analysis", "predictions"]
    for number, place in enumerate((packed, folder)):  # the data of the run, and the folder that was packed
        output = tmp_path / str(number)
        assert exit_code(analyze.main, [*flags, "--output-dir", str(output), "--data-dir", str(place)]) == 0
        names = [row["file"] for row in read_table(output / "predictions.csv")]
        expected = sorted(file.relative_to(folder).as_posix() for file in (folder / "test").rglob("*.png"))
        assert [name.removeprefix(f"{folder}/") for name in names] == expected
    found = check_data(settings.resolved().data)
    assert found.status == "ok"
    assert "80 images of 2 classes" in found.found and "20 to test on" in found.found
