import numpy as np

from volo.analysis.doubts import Doubts
from volo.analysis.evaluate import Predictions
from volo.analysis.listing import FILE, save_listing
from volo.tables import read_table


def test_every_image_has_a_row_in_order_and_a_doubtful_label_says_what_it_seems_to_be(tmp_path):
    shares = np.array([[0.9, 0.1], [0.25, 0.75], [0.5, 0.5]])
    predictions = Predictions("test", ("=cat", "dog"), [0, 0, 1], np.log(shares).astype(np.float32))
    doubts = Doubts(np.array([1]), np.array([1]), np.array([0.9]))
    save_listing(predictions, doubts, ["a/1.png", "b\n2.png", "3.png"].__getitem__, tmp_path)
    rows = list(read_table(tmp_path / FILE))
    assert [row["file"] for row in rows] == ["a/1.png", "b\n2.png", "3.png"]
    assert [(row["true"], row["predicted"], row["right"]) for row in rows] == [
        ("=cat", "=cat", "yes"), ("=cat", "dog", "no"), ("dog", "=cat", "no"),
    ]  # fmt: skip
    assert [row["label_may_be"] for row in rows] == ["", "dog", ""]
    assert [float(row["probability_of_true"]) for row in rows] == [0.9, 0.25, 0.5]
    assert abs(float(rows[1]["loss"]) - np.log(4)) < 1e-5
    assert len((tmp_path / FILE).read_text().splitlines()) == 4
