"""predictions.csv: what the model said about every evaluated image, by file."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from volo.analysis.doubts import Doubts
from volo.analysis.evaluate import Predictions
from volo.files import replace_synced
from volo.tables import TableWriter

FILE = "predictions.csv"
COLUMNS = ("file", "true", "predicted", "right", "confidence", "probability_of_true", "loss", "label_may_be")


def save_listing(predictions: Predictions, doubts: Doubts, name_of: Callable[[int], str], output_dir: Path) -> None:
    """One row per image, in the order of the split, in COLUMNS: `right` is yes or no, `loss` in nats, `label_may_be`
    the class that a doubtful label seems to be, else empty.

    Args:
        predictions: Of the split.
        doubts: As from `doubtful_labels`.
        name_of: The file, or another name, of an image by its place in the split.
    """
    names = predictions.class_names
    suggested = dict(zip(doubts.places.tolist(), doubts.suggested.tolist(), strict=True))
    file = io.StringIO()
    table = TableWriter(file, COLUMNS)
    for place in range(predictions.num_samples):
        true, predicted = int(predictions.labels[place]), int(predictions.predicted[place])
        probability = predictions.probabilities[place, true]
        table.write(
            [
                name_of(place), names[true], names[predicted], "yes" if true == predicted else "no",
                *_rounded(predictions.confidence[place], probability, predictions.losses[place]),
                names[suggested[place]] if place in suggested else "",
            ]
        )  # fmt: skip
    replace_synced(output_dir / FILE, file.getvalue().encode())


def _rounded(*values: float) -> Sequence[float]:
    return [round(float(value), 6) for value in values]
