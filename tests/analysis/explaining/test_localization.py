import json

import numpy as np
import pytest

from volo.analysis.explaining.localization import (
    NUM_CONTROLS,
    Objects,
    all_intervals,
    controls,
    drawn_objects,
    save_localization,
    score_center,
    score_heatmaps,
    score_random,
)
from volo.analysis.intervals import share_interval
from volo.analysis.subject import View
from volo.data import shapes
from volo.data.decoded.cache import Images


def view(split: str, index: np.ndarray) -> View:
    images = Images(np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1, np.int64), shapes.CLASS_NAMES)
    return View(images, index, split, is_drawn=True)


def two_objects() -> Objects:
    """4 x 4 pixels. The first object is a corner of three pixels off the centre, the second the centre's pixel."""
    masks = np.zeros((2, 4, 4), bool)
    masks[0, 0, :2] = masks[0, 1, 0] = masks[1, 2, 2] = True
    boxes = masks.copy()
    boxes[0, 1, 1] = True
    return Objects(masks, boxes)


@pytest.mark.parametrize(("split", "part"), [("test", "test"), ("val", "train")])
def test_objects_are_those_that_were_drawn(split, part):
    index = np.array([7, 3, 100, 1999])
    objects = drawn_objects(view(split, index), np.array([1, 3, 0]))
    for mask, box, number in zip(objects.masks, objects.boxes, (3, 1999, 7), strict=True):
        np.testing.assert_array_equal(mask, shapes.draw(part, number, number + 1).masks[0])
        rows, columns = np.nonzero(mask)
        expected = np.zeros((32, 32), bool)
        expected[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
        np.testing.assert_array_equal(box, expected)


def test_scores_of_a_case_counted_by_hand():
    heatmaps = np.zeros((2, 4, 4), np.float32)
    heatmaps[0, 1, 1], heatmaps[1, 2, 2] = 1.0, 1.0  # in the box alone; on the object
    assert score_heatmaps(heatmaps, two_objects()) == {"in_mask": 0.5, "in_box": 1.0, "in_mask_off_centre": 0.0}
    assert score_center(two_objects()) == {"in_mask": 0.5, "in_box": 0.5, "in_mask_off_centre": 0.0}
    assert score_random(two_objects()) == {"in_mask": 2 / 16, "in_box": 2.5 / 16, "in_mask_off_centre": 3 / 16}


def test_where_every_object_is_in_the_centre_there_is_no_score_off_it(tmp_path):
    objects = Objects(np.ones((2, 4, 4), bool), np.ones((2, 4, 4), bool))
    scores = {"centre": score_center(objects)}
    assert scores["centre"] == {"in_mask": 1.0, "in_box": 1.0, "in_mask_off_centre": None}
    save_localization(tmp_path, "test", objects, scores)
    found = json.loads((tmp_path / "localisation.json").read_text())
    assert found.pop("intervals")["centre"] == {
        "in_mask": list(share_interval(2, 2)), "in_box": list(share_interval(2, 2)), "in_mask_off_centre": None,
    }  # fmt: skip
    assert found == {
        "split": "test", "num_images": 2, "num_off_centre": 0, "num_images_shuffled": 2, "scores": scores,
    }  # fmt: skip


def test_shuffled_weights_are_scored_on_fewer_images_with_intervals_of_as_many():
    masks = np.zeros((400, 4, 4), bool)
    masks[:, 0, 0] = True
    objects = Objects(masks, masks)
    assert len(objects.controls.masks) == NUM_CONTROLS == len(set(controls(400)))
    scores = {name: score_center(objects) for name in ("gradcam", "gradcam_shuffled")}
    found = all_intervals(scores, objects)
    assert found["gradcam"]["in_mask"] == share_interval(0, 400)
    assert found["gradcam_shuffled"]["in_mask"] == share_interval(0, NUM_CONTROLS)
