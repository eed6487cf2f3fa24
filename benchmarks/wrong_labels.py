"""How many wrong labels an analysis finds, where some were made wrong on purpose: its list against the largest losses.

    python -m benchmarks.wrong_labels --data-dir data/flowers128 --epochs 20 --seeds 0 1 2

Of the training labels, a share is changed to another class, drawn; the images stay where they are and a labels.csv says
their classes. The recipe `photos` is trained on that. Then the test split is judged, of whose labels as large a share
is made wrong, --draws times: of the labels that the analysis lists as doubtful, and of as many images with the largest
losses, how many are wrong (precision), and how many of the wrong ones are among them (recall). Data and runs stay in
--output.
"""

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.timing import machine
from volo.analysis.doubts import doubtful_labels
from volo.analysis.steps import predict
from volo.analysis.subject import Subject, View, Work, load_subject, open_view
from volo.data.folders.imagefolder import ImageFolder
from volo.runs import checkpoint
from volo.settings.config import build_settings
from volo.settings.recipes import recipe_settings
from volo.training.launch import train_here


def made_wrong(labels: np.ndarray, num_classes: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """(N,) the same labels, but a share of them of other classes."""
    chosen = rng.permutation(len(labels))[: round(share * len(labels))]
    changed = labels.copy()
    changed[chosen] = (labels[chosen] + rng.integers(1, num_classes, len(chosen))) % num_classes
    return changed


def write_mislabeled(data_dir: Path, root: Path, share: float, seed: int) -> None:
    """A data set of the same images, with wrong labels among those to train on."""
    root.mkdir(parents=True)
    (root / "images").symlink_to(data_dir)
    rng = np.random.default_rng(seed)
    with open(root / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "class", "split"])
        for split in ("train", "test"):
            source = ImageFolder(data_dir, split, 32)
            names, labels = source.class_names, source.labels
            if split == "train":
                labels = made_wrong(labels, len(names), share, rng)
            paths = [Path("images") / Path(one.name).relative_to(data_dir) for one in source.files]
            table.writerows([str(path), names[label], split] for path, label in zip(paths, labels, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="an image folder with a test split")
    parser.add_argument("--share", type=float, default=0.05, help="of the labels that are made wrong")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--draws", type=int, default=20, help="of wrong test labels, for each seed")
    parser.add_argument("--output", type=Path, default=Path("outputs/wrong-labels"), help="a folder that is not there")
    given = parser.parse_args()
    output = given.output.absolute()
    print(f"{machine()}; {given.share:.0%} of the labels wrong, recipe photos, {given.epochs} epochs")
    print("| seed | test top-1 | listed | precision | recall | of as many largest losses |")
    print("|---" * 6 + "|", flush=True)
    for seed in given.seeds:
        root = output / f"data{seed}"
        write_mislabeled(given.data_dir.absolute(), root, given.share, seed)
        run = dict(output_dir=str(output), run_name=f"run{seed}", num_workers=0, seed=seed)
        over = dict(data=dict(data_dir=str(root)), optim=dict(epochs=given.epochs), run=run)
        train_here(build_settings(recipe_settings("photos"), over))
        print(row(seed, output / f"run{seed}", given.share, given.draws), flush=True)


def row(seed: int, run_dir: Path, share: float, draws: int) -> str:
    """Means over the draws."""
    subject = load_subject(checkpoint.find(run_dir))
    seen = predict(subject, open_view(subject.description, "test"), on_cpu)
    rng, found = np.random.default_rng(seed), []
    for _ in range(draws):
        wronged = replace(seen, labels=made_wrong(seen.labels, seen.num_classes, share, rng))
        is_wrong, listed = wronged.labels != seen.labels, doubtful_labels(wronged).places
        largest = np.argsort(-wronged.losses, kind="stable")[: len(listed)]
        hits, by_loss = is_wrong[listed].sum(), is_wrong[largest].sum()
        many, total = max(1, len(listed)), is_wrong.sum()
        found.append([len(listed), hits / many, hits / total, by_loss / many, by_loss / total])
    listed, *rates = np.mean(found, axis=0).tolist()
    precision, recall, *by_loss = (f"{rate:.1%}" for rate in rates)
    return f"| {seed} | {seen.correct.mean():.2%} | {listed:.1f} | {precision} | {recall} | {', '.join(by_loss)} |"


def on_cpu(subject: Subject, view: View, work: Work) -> np.ndarray:
    return work(subject, view, torch.device("cpu"), 0, 1)


if __name__ == "__main__":
    main()
