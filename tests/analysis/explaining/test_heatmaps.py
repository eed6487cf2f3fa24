import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from volo.analysis.evaluate import Predictions
from volo.analysis.explaining.heatmaps import enlarged, overlay, save_overlays, spread


@given(size=st.integers(1, 50), places=st.integers(1, 9), value=st.integers(-5, 5))
def test_a_constant_map_spreads_to_a_constant(size, places, value):
    centres = (np.arange(places) + 0.5) * size / places
    found = spread(np.full((2, places, places), float(value)), centres, centres, size, size)
    np.testing.assert_allclose(found, value, rtol=1e-6)


def test_values_stand_at_their_places_and_are_linear_between_them():
    found = spread(np.array([[[0.0, 1.0]]]), np.array([0.5]), np.array([1.5, 5.5]), 2, 8)
    np.testing.assert_allclose(found, [[[0, 0, 0.25, 0.5, 0.75, 1, 1, 1]] * 2])


def test_rows_and_columns_are_not_exchanged():
    maps = np.zeros((1, 2, 3))
    maps[0, 1, 0] = 1.0
    found = spread(maps, np.array([2.0, 6.0]), np.array([2.0, 6.0, 10.0]), 8, 12)
    assert np.unravel_index(found[0].argmax(), (8, 12)) == (6, 0)


@pytest.mark.parametrize("side", [1, 32, 120, 300])
def test_an_overlay_is_grey_where_nothing_speaks_for_the_class(side):
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    heatmap = np.zeros((side, side), np.float32)
    grey = overlay(image, heatmap - 1)
    assert grey.shape == enlarged(image).shape == (max(192, side),) * 2 + (3,)
    assert (grey[..., 0] == grey[..., 1]).all() and (grey[..., 1] == grey[..., 2]).all()
    heatmap[side // 2 :, side // 2 :] = 3.0
    lit = overlay(image, heatmap)
    assert np.abs(lit[-1, -1].astype(int) - grey[-1, -1]).max() > 40
    np.testing.assert_array_equal(overlay(image, 1000 * heatmap), lit)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_overlays_of_any_number_make_a_picture(tmp_path, count):
    names = ("<b>cat</b>", r"$\frac{$")
    predictions = Predictions("test", names, np.arange(count) % 2, np.eye(2)[np.arange(count) % 2])
    images = np.zeros((count, 32, 32, 3), np.uint8)
    overlays = [overlay(image, np.eye(32, dtype=np.float32)) for image in images]
    path = tmp_path / "a.png"
    save_overlays(path, "Grad-CAM", "at a layer", images, overlays, predictions, np.arange(count))
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.width > 500
