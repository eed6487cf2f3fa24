"""Images predicted in chunks."""

import multiprocessing

import pytest
import torch

from tests.conftest import draw_folder
from tests.models import save_model
from volo.analysis.predict import Chunk, pieces
from volo.analysis.subject import load_subject

CPU, SIZE = torch.device("cpu"), 100


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_the_same_processes_read_for_all_chunks(tmp_path, two_threads):
    """They start once, and read for the next chunk while the model computes."""
    subject = load_subject(save_model(tmp_path / "run", ("cat", "dog", "owl")))
    images = draw_folder(tmp_path, {"a": {"x": SIZE}}) / "a" / "x"
    paths = [str(path) for path in sorted(images.iterdir())]
    chunks = [Chunk(start * SIZE, paths) for start in range(6)]
    counted: list[int] = []
    before, found = multiprocessing.active_children(), pieces(subject, chunks, CPU, 64, counted.append)
    read_by, first = [], []
    for piece in found:
        read_by.append({child for child in multiprocessing.active_children() if child not in before})
        first = first or piece.results
        assert len(piece.results) == SIZE
        assert [dict(result) for result in piece.results] == [pytest.approx(dict(result)) for result in first]
    assert read_by[0]
    assert read_by[0] == read_by[1] == read_by[2]
    assert counted == [64, 36] * 6
