"""Images/s of `jobs.predict` in one process, against a plain loop and the model alone.

    python -m benchmarks.predict --checkpoint RUN --input FOLDER [--images 4000] [--rounds 7]

The plain loop is what people write: torchvision's transforms in a DataLoader with two worker processes, and the model
on each batch. Both read the same files, with the same weights, threads and batches, and keep five classes of each.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.timing import alternate, machine, ratios
from volo.analysis.explaining.images import list_images
from volo.analysis.predict import predict_here
from volo.analysis.subject import Subject, load_subject
from volo.runs import checkpoint

WORKERS = 2


class Files(Dataset):
    def __init__(self, paths: list[str], transform: Callable[[Image.Image], Tensor]):
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> Tensor:
        with Image.open(self.paths[place]) as image:
            return self.transform(image.convert("RGB"))


@torch.inference_mode()
def plain_loop(subject: Subject, paths: list[str], batch_size: int) -> list[Tensor]:
    data = subject.description.settings.data
    transform = transforms.Compose(
        [
            transforms.Resize(data.image_size, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(data.image_size),
            transforms.ToTensor(),
            transforms.Normalize(data.mean, data.std),
        ]
    )
    loader = DataLoader(Files(paths, transform), batch_size, num_workers=WORKERS)
    return [subject.model(images).softmax(dim=-1).topk(5) for images in loader]


@torch.inference_mode()
def model_alone(subject: Subject, images: Tensor, num_batches: int) -> None:
    for _ in range(num_batches):
        subject.model(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    flags = parser.parse_args()
    path = checkpoint.find(flags.checkpoint)
    subject = load_subject(path)
    paths = [file.path for file in list_images([flags.input]).files[: flags.images]]
    size = subject.description.settings.data.image_size
    images, num_batches = torch.randn(flags.batch_size, 3, size, size), -(-len(paths) // flags.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        numbers = iter(range(10**6))

        def ours() -> None:
            output = Path(folder) / f"{next(numbers)}.csv"
            predict_here(path, paths, output, batch_size=flags.batch_size, device="cpu")

        calls: dict[str, Callable[[], object]] = {
            "jobs.predict": ours,
            "plain loop": lambda: plain_loop(subject, paths, flags.batch_size),
            "model alone": lambda: model_alone(subject, images, num_batches),
        }
        times = alternate(calls, flags.rounds, seconds=0)
    print(f"{machine()}; {len(paths):,} images at {size} pixels, batch {flags.batch_size}, n = {flags.rounds}")
    for name, seconds in times.items():
        print(f"  {name}: {len(paths) / statistics.median(seconds):,.0f} images/s")
    for name in ("plain loop", "model alone"):
        print(f"  rate of jobs.predict over that of the {name}: {ratios(times[name], times['jobs.predict'])}")


if __name__ == "__main__":
    main()
