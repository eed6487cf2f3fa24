"""Do the explanations find the object? Scored on drawn images, whose object masks are known.

An explanation points at the maximum of its heatmap. Baselines that do not depend on what the network
learned: the image's center, a random point, and the same explanation of the network with shuffled weights.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from volo.analysis.intervals import Interval, share_interval
from volo.analysis.subject import View
from volo.data import shapes
from volo.files import replace_synced

Shares = dict[str, float | None]
RANDOM, SHUFFLED = "random", "_shuffled"
NUM_CONTROLS = 150  # images that shuffled weights explain: enough to see that they find little


@dataclass(frozen=True, eq=False)
class Objects:
    """Where the objects of m images are. `masks`, `boxes` (m, H, W) bool: their pixels, and the boxes around them."""

    masks: np.ndarray
    boxes: np.ndarray

    @property
    def off_center(self) -> np.ndarray:
        """(m,) bool: the image's center is not on the object."""
        return ~self.masks[:, self.masks.shape[1] // 2, self.masks.shape[2] // 2]

    @property
    def controls(self) -> "Objects":
        """Those that `controls` chooses."""
        chosen = controls(len(self.masks))
        return Objects(self.masks[chosen], self.boxes[chosen])


def controls(num_images: int) -> np.ndarray:
    """Which of so many images shuffled weights explain: NUM_CONTROLS of them, evenly spaced."""
    return np.linspace(0, num_images - 1, min(num_images, NUM_CONTROLS)).astype(np.int64)


def drawn_objects(view: View, places: np.ndarray) -> Objects:
    """The objects of images of `shapes`, by place in the view."""
    part = "test" if view.split == "test" else "train"
    masks = np.concatenate([shapes.draw(part, index, index + 1).masks for index in view.index[places].tolist()])
    rows, columns = np.any(masks, axis=2), np.any(masks, axis=1)  # (m, H), (m, W)
    return Objects(masks, _filled(rows)[:, :, None] & _filled(columns)[:, None, :])


def score_heatmaps(heatmaps: np.ndarray, objects: Objects) -> Shares:
    """Shares of (m, H, W) heatmaps whose maximum lies on the object (in_mask), in the box around it (in_box), and, of
    the images whose center is not on the object, on it (in_mask_off_centre; None if there are none)."""
    flat = heatmaps.reshape(len(heatmaps), -1).argmax(axis=1)
    points = np.zeros(heatmaps.shape, bool)
    np.put_along_axis(points.reshape(len(points), -1), flat[:, None], True, axis=1)
    return _shares(points, objects)


def score_center(objects: Objects) -> Shares:
    points = np.zeros_like(objects.masks)
    points[:, points.shape[1] // 2, points.shape[2] // 2] = True
    return _shares(points, objects)


def score_random(objects: Objects) -> Shares:
    """Expected shares of a uniformly random point, computed exactly."""
    return _shares(np.full(objects.masks.shape, 1 / objects.masks[0].size), objects)


def intervals(shares: Shares, num_images: int, num_off_center: int) -> dict[str, Interval | None]:
    """For each share of a pointer that points at one pixel an image: the interval of `share_interval`."""
    totals = {name: num_off_center if name == "in_mask_off_centre" else num_images for name in shares}
    return {
        name: None if share is None else share_interval(round(share * totals[name]), totals[name])
        for name, share in shares.items()
    }


def all_intervals(scores: dict[str, Shares], objects: Objects) -> dict[str, dict[str, Interval | None]]:
    """`intervals` of every pointer but the random one, whose shares are exact."""
    found = {}
    for name, shares in scores.items():
        seen = objects.controls if name.endswith(SHUFFLED) else objects
        if name != RANDOM:
            found[name] = intervals(shares, len(seen.masks), int(seen.off_center.sum()))
    return found


def save_localization(output_dir: Path, split: str, objects: Objects, scores: dict[str, Shares]) -> None:
    """Writes localisation.json: split, num_images, num_off_centre, num_images_shuffled, and `scores`: of each pointer
    (gradcam, occlusion, the same of shuffled weights with suffix _shuffled, centre, random) in_mask, in_box,
    in_mask_off_centre, as from `score_heatmaps`. `intervals`: as from `all_intervals`."""
    content = {
        "split": split,
        "num_images": len(objects.masks),
        "num_off_centre": int(objects.off_center.sum()),
        "num_images_shuffled": len(objects.controls.masks),
        "scores": scores,
        "intervals": all_intervals(scores, objects),
    }
    replace_synced(output_dir / "localisation.json", f"{json.dumps(content, indent=1)}\n".encode())


def _shares(points: np.ndarray, objects: Objects) -> Shares:
    """`points` (m, H, W): where each pointer points, adding up to 1 for each image."""
    in_mask = (points * objects.masks).sum(axis=(1, 2))  # (m,)
    off_center = in_mask[objects.off_center]
    return {
        "in_mask": float(in_mask.mean()),
        "in_box": float((points * objects.boxes).sum(axis=(1, 2)).mean()),
        "in_mask_off_centre": float(off_center.mean()) if len(off_center) else None,
    }


def _filled(lines: np.ndarray) -> np.ndarray:
    """(m, L) bool -> (m, L) bool, all from the first to the last that is true."""
    return np.maximum.accumulate(lines, axis=1) & np.maximum.accumulate(lines[:, ::-1], axis=1)[:, ::-1]
