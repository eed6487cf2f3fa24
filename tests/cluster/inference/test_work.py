"""What a worker computes on is what the analysis was started on; here without a cluster."""

import numpy as np
import pytest

from tests.conftest import draw_folder
from volo.analysis.subject import Subject, View, open_view
from volo.cluster.inference.work import _share
from volo.errors import InputError
from volo.runs.model_file import Description
from volo.settings.config import build_settings

COUNTS = {"test": {"cat": 3, "dog": 4}}


def shares(subject: Subject, view: View, device, rank: int, world_size: int) -> np.ndarray:
    return view.labels[rank::world_size]


def test_a_node_with_other_images_is_refused_and_one_with_a_copy_is_not(tmp_path):
    settings = build_settings({"data": dict(dataset="imagefolder", data_dir="/nowhere")}).resolved()
    subject = Subject(None, Description(settings, ("cat", "dog"), "", step=1, epoch=1))
    here, copy, other = (draw_folder(tmp_path / name, COUNTS) for name in ("here", "copy", "other"))
    (other / "test" / "dog" / "0001.png").unlink()
    shared = (subject, shares, open_view(subject.description, "test", str(here)).identity())
    assert _share(shared, "test", str(copy), 0, 2, 1, False).tolist() == [0, 0, 1, 1]
    with pytest.raises(InputError, match="every node must have the same data, got other test images on"):
        _share(shared, "test", str(other), 1, 2, 1, False)
