"""How many wrong labels an analysis finds, where some were made wrong on purpose: its list against the largest losses.

    python -m benchmarks.wrong_labels --data-dir data/flowers128 --epochs 20 --seeds 0 1 2

Of every split's labels, a share is changed to another class, drawn; the images stay where they are and a labels.csv
says their classes. The recipe `photos` is trained on that, and the test split is analyzed: of the labels that
`predictions.csv` lists as doubtful, and of as many images with the largest losses, how many are wrong (precision), and
how many of the wrong ones are among them (recall). Data and runs stay in --output.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch

from benchmarks.timing import machine
from volo.analysis.doubts import doubtful_labels
from volo.analysis.evaluate import Predictions
from volo.analysis.subject import compute_logits, load_subject, open_view
from volo.data.folders.imagefolder import ImageFolder
from volo.runs import checkpoint
from volo.settings.config import build_settings
from volo.settings.recipes import recipe_settings
from volo.training.launch import train_here


def mislabeled(data_dir: Path, root: Path, share: float, seed: int) -> set[str]:
    """Writes a data set of the same images, and returns the names of the test images with wrong labels."""
    root.mkdir(parents=True)
    (root / "images").symlink_to(data_dir)
    rng, wrong = np.random.default_rng(seed), set[str]()
    with open(root / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "class", "split"])
        for split in ("train", "test"):
            source = ImageFolder(data_dir, split, 32)
            names, labels = source.class_names, source.labels.copy()
            chosen = rng.permutation(len(labels))[: round(share * len(labels))]
            labels[chosen] = (labels[chosen] + rng.integers(1, len(names), len(chosen))) % len(names)
            paths = [Path("images") / Path(one.name).relative_to(data_dir) for one in source.files]
            table.writerows([str(path), names[label], split] for path, label in zip(paths, labels, strict=True))
            if split == "test":
                wrong = {str(root / paths[number]) for number in chosen}
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="an image folder with a test split")
    parser.add_argument("--share", type=float, default=0.05, help="of the labels that are made wrong")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/wrong-labels"), help="a folder that is not there")
    given = parser.parse_args()
    output = given.output.absolute()
    print(f"{machine()}; {given.share:.0%} of the labels wrong, recipe photos, {given.epochs} epochs")
    print("| seed | accuracy on right labels | listed | wrong | precision | recall | of as many largest losses |")
    print("|---" * 7 + "|", flush=True)
    for seed in given.seeds:
        root = output / f"data{seed}"
        wrong = mislabeled(given.data_dir.absolute(), root, given.share, seed)
        run = dict(output_dir=str(output), run_name=f"run{seed}", num_workers=0, seed=seed)
        over = dict(data=dict(data_dir=str(root)), optim=dict(epochs=given.epochs), run=run)
        train_here(build_settings(recipe_settings("photos"), over))
        print(row(seed, output / f"run{seed}", wrong), flush=True)


def row(seed: int, run_dir: Path, wrong: set[str]) -> str:
    subject = load_subject(checkpoint.find(run_dir))
    view = open_view(subject.description, "test")
    logits = compute_logits(subject, view, torch.device("cpu"))
    predictions = Predictions("test", subject.description.class_names, view.labels, logits)
    is_wrong = np.array([view.name_of(place) in wrong for place in range(predictions.num_samples)])
    listed = doubtful_labels(predictions).places
    largest = np.argsort(-predictions.losses, kind="stable")[: len(listed)]
    found, by_loss = is_wrong[listed].sum(), is_wrong[largest].sum()
    many, total = max(1, len(listed)), is_wrong.sum()
    return (
        f"| {seed} | {predictions.correct[~is_wrong].mean():.2%} | {len(listed)} | {total} | {found / many:.1%} | "
        f"{found / total:.1%} | {by_loss / many:.1%}, {by_loss / total:.1%} |"
    )


if __name__ == "__main__":
    main()
