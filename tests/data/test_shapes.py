from itertools import combinations

import numpy as np
import pytest

from volo.data import shapes
from volo.data.shapes import (
    CLASS_NAMES,
    COLOR_NAMES,
    COLORS,
    DISTANCES,
    IMAGE_SIZE,
    NUM_IMAGES,
    REACH,
    SHAPE_NAMES,
    draw,
)

PALETTE = np.array(list(COLORS.values()))


@pytest.fixture(scope="module")
def train() -> shapes.Drawing:
    return draw("train", 0, 8000)


@pytest.fixture(scope="module")
def test() -> shapes.Drawing:
    return draw("test", 0, NUM_IMAGES["test"])


def assert_same(one: shapes.Drawing, two: shapes.Drawing) -> None:
    for name in ("images", "labels", "masks"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)


def of_kinds(drawing: shapes.Drawing, *kinds: str) -> np.ndarray:
    """(N, H, W) masks of these shapes only."""
    return drawing.masks[np.isin(drawing.labels // 10, [SHAPE_NAMES.index(kind) for kind in kinds])]


def centroids(masks: np.ndarray) -> np.ndarray:
    """(N, H, W) -> (N, 2): y and x, pixel centers at 0.5, 1.5, ..."""
    place = np.arange(IMAGE_SIZE) + 0.5
    mass = masks.sum((1, 2))
    return np.stack([masks.sum(2) @ place / mass, masks.sum(1) @ place / mass], axis=1)


def grown(masks: np.ndarray) -> np.ndarray:
    """Masks with every pixel's eight neighbors."""
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    H, W = masks.shape[1:]
    return np.any([padded[:, dy : dy + H, dx : dx + W] for dy in range(3) for dx in range(3)], axis=0)


def moment(mask: np.ndarray) -> float:
    """Second moment over squared area: the same for a shape at any position, size and angle."""
    y, x = np.nonzero(mask)
    return float((x.var() + y.var()) / len(x))


def test_classes_are_shape_times_ten_plus_color():
    assert len(SHAPE_NAMES) == len(COLOR_NAMES) == 10
    assert len(set(CLASS_NAMES)) == 100
    for number, name in enumerate(CLASS_NAMES):
        assert name == f"{COLOR_NAMES[number % 10]} {SHAPE_NAMES[number // 10]}"


def test_a_drawing_has_the_documented_shapes_and_types():
    drawing = draw("train", 10, 17)
    assert (drawing.images.shape, drawing.images.dtype) == ((7, 32, 32, 3), np.uint8)
    assert (drawing.labels.shape, drawing.labels.dtype) == ((7,), np.int64)
    assert (drawing.masks.shape, drawing.masks.dtype) == ((7, 32, 32), np.bool_)


def test_the_same_arguments_draw_the_same_images(test):
    assert_same(draw("test", 0, NUM_IMAGES["test"]), test)


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, 1), (1, 2), (511, 513), (512, 1024), (37, 1700), (7999, 8000)],
)
def test_an_image_does_not_depend_on_the_range_it_is_drawn_in(train, start, stop):
    expected = shapes.Drawing(train.images[start:stop], train.labels[start:stop], train.masks[start:stop])
    assert_same(draw("train", start, stop), expected)


@pytest.mark.parametrize("place", [0, 5, NUM_IMAGES["train"]])
def test_an_empty_range_draws_no_image(place):
    drawing = draw("train", place, place)
    assert drawing.images.shape == (0, 32, 32, 3)
    assert drawing.labels.shape == (0,)
    assert drawing.masks.shape == (0, 32, 32)


def test_splits_and_seeds_share_no_image(train, test):
    drawings = [test, draw("test", 0, 2000, seed=1), train]
    images = [image.tobytes() for drawing in drawings for image in drawing.images]
    assert len(set(images)) == len(images)


@pytest.mark.parametrize("split", NUM_IMAGES)
def test_classes_are_balanced(split):
    counts = np.bincount(shapes.labels(split), minlength=100)
    assert set(counts) == {NUM_IMAGES[split] // 100}


def test_labels_of_a_split_are_those_it_is_drawn_with(test):
    np.testing.assert_array_equal(shapes.labels("test"), test.labels)


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_object_covers_8_to_25_percent(split, request):
    area = request.getfixturevalue(split).masks.mean((1, 2))
    assert area.min() >= 0.08
    assert area.max() <= 0.25
    assert area.max() - area.min() > 0.12  # sizes vary


def test_sizes_of_all_shapes_are_alike(train):
    means = [of_kinds(train, kind).mean() for kind in SHAPE_NAMES]
    assert max(means) - min(means) < 0.01


@pytest.mark.parametrize("kind", SHAPE_NAMES)
def test_a_class_is_drawn_in_its_own_shape(train, kind):
    side = np.linspace(-1.6, 1.6, 321)
    outline = DISTANCES[kind](*np.meshgrid(side, side)) < 0
    drawn = np.mean([moment(mask) for mask in of_kinds(train, kind)[:300]])
    assert drawn == pytest.approx(moment(outline), rel=0.025)


def test_an_object_at_the_edge_is_not_cut(train):
    round_ones = of_kinds(train, "disc", "ring")  # as wide as high, to the pixel grid
    height, width = round_ones.any(2).sum(1), round_ones.any(1).sum(1)
    assert np.abs(height - width).max() <= 1


@pytest.mark.parametrize("kind", SHAPE_NAMES)
def test_the_reach_that_keeps_a_shape_in_the_image_holds_all_of_it(kind):
    side = np.linspace(-1.6, 1.6, 641)
    x, y = np.meshgrid(side, side)
    farthest = np.hypot(x, y)[DISTANCES[kind](x, y) < 0].max()
    assert 0.95 * REACH[kind] < farthest <= REACH[kind]


def test_the_place_is_uniform_over_where_the_object_fits(train):
    discs = of_kinds(train, "disc")
    radius = np.sqrt(discs.sum((1, 2)) / np.pi)[:, None]
    place = (centroids(discs) - radius) / (IMAGE_SIZE - 2 * radius)  # (N, 2) in [0, 1]
    cells = np.clip(place * 3, 0, 2.999).astype(int)
    counts = np.bincount(cells[:, 0] * 3 + cells[:, 1], minlength=9)
    expected = len(discs) / 9
    assert ((counts - expected) ** 2 / expected).sum() < 26.1  # chi-squared, 8 degrees of freedom, p = 0.001


@pytest.mark.parametrize("kind", SHAPE_NAMES)
def test_no_shape_prefers_a_side_of_the_image(train, kind):
    np.testing.assert_allclose(centroids(of_kinds(train, kind)).mean(0), IMAGE_SIZE / 2, atol=0.7)


def test_the_mask_is_where_the_color_of_the_class_is(train):
    color = PALETTE[train.labels % 10][:, None, None]
    far = np.abs(train.images / 255 - color).max(-1) > 0.2  # jitter and noise together stay below
    inside, outside = ~grown(~train.masks), ~grown(train.masks)
    assert inside.any((1, 2)).mean() > 0.98
    assert far[inside].mean() < 0.001
    assert far[outside].mean() > 0.97


def test_the_mean_color_of_the_mask_names_the_color(train):
    mean = (train.images * train.masks[..., None]).sum((1, 2)) / train.masks.sum((1, 2))[:, None] / 255
    nearest = np.linalg.norm(mean[:, None] - PALETTE, axis=-1).argmin(1)
    np.testing.assert_array_equal(nearest, train.labels % 10)


def test_the_ground_is_grayish(train):
    ground = train.images[~grown(train.masks)] / np.float32(255)
    assert np.ptp(ground, axis=1).mean() < 0.15


def test_the_ground_is_more_than_a_gradient_and_noise(train):
    row, col = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE]
    left = []
    for image, keep in zip(train.images[:500], ~grown(train.masks[:500]), strict=True):
        plane = np.stack([np.ones(keep.sum()), row[keep], col[keep]], axis=1)
        brightness = image[keep].mean(1)
        left.append((brightness - plane @ np.linalg.lstsq(plane, brightness, rcond=None)[0]).std())
    assert np.median(left) > 15  # pixel noise alone: 7


@pytest.mark.parametrize("kind", SHAPE_NAMES)
def test_a_mirrored_shape_is_the_shape_turned(kind):
    side = np.linspace(-1.5, 1.5, 97)
    x, y = np.meshgrid(side, side)
    distance = DISTANCES[kind](x, y)
    assert np.allclose(distance, DISTANCES[kind](-x, y)) or np.allclose(distance, DISTANCES[kind](x, -y))


def test_no_two_shapes_of_one_area_cover_the_same_pixels():
    side = np.linspace(-1, 1, 64)
    x, y = np.meshgrid(side, side)
    turned = {}
    for kind in SHAPE_NAMES:
        scale = np.sqrt(0.7 / shapes._unit_area(kind))
        angles = np.arange(0, 2 * np.pi, np.pi / 12)
        frames = [(np.cos(a) * x + np.sin(a) * y, np.cos(a) * y - np.sin(a) * x) for a in angles]
        turned[kind] = np.stack([DISTANCES[kind](u / scale, v / scale) < 0 for u, v in frames])
    for one, two in combinations(SHAPE_NAMES, 2):
        overlap = max((turned[one][0] & mask).sum() / (turned[one][0] | mask).sum() for mask in turned[two])
        assert overlap < 0.85, (one, two, overlap)


@pytest.mark.parametrize(
    "summary",
    [lambda images: images.mean((1, 2)), lambda images: images[:, 16, 16]],
    ids=["mean color", "center pixel"],
)
def test_one_color_of_the_image_does_not_tell_the_class(train, test, summary):
    fit, held_out = (_quadratic(summary(drawing.images / np.float32(255))) for drawing in (train, test))
    weights = np.linalg.lstsq(fit, np.eye(100)[train.labels], rcond=None)[0]
    assert ((held_out @ weights).argmax(1) == test.labels).mean() < 0.15


def _quadratic(color: np.ndarray) -> np.ndarray:
    """(N, 3) -> (N, 10) monomials up to the second degree."""
    full = np.concatenate([np.ones_like(color[:, :1]), color], axis=1)
    rows, cols = np.triu_indices(4)
    return full[:, rows] * full[:, cols]


def test_an_unknown_split_is_refused_with_those_known():
    with pytest.raises(ValueError, match=r"split must be one of train, test, got 'val'"):
        draw("val", 0, 1)
    with pytest.raises(ValueError, match=r"split must be one of train, test, got 'val'"):
        shapes.labels("val")


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (0, 2001), (2001, 2001)])
def test_a_range_outside_the_split_is_refused_with_its_size(start, stop):
    message = rf"start and stop must lie within the 2000 images of test, got \[{start}, {stop}\)"
    with pytest.raises(ValueError, match=message):
        draw("test", start, stop)
