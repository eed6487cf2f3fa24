"""The data set that was chosen: there, and as it should be. Nothing is fetched for that."""

from pathlib import Path

from volo.data.cifar import CIFAR10, CIFAR100
from volo.data.fetch import look, mirrored
from volo.data.imagefolder import ImageFolder, read_image
from volo.findings import Finding, ok, warning
from volo.sections import DataSettings

ARCHIVES = {"cifar10": CIFAR10, "cifar100": CIFAR100}
NUM_DECODED = 16


def check_data(data: DataSettings) -> Finding:
    """Checksums of archives; of an image folder its classes, and some of its images decoded.

    Args:
        data: Resolved.

    Raises:
        InputError: what training would refuse.
    """
    if data.dataset == "shapes":
        return ok("data", "shapes are drawn, nothing is read")
    return _check_folder(data) if data.dataset == "imagefolder" else _check_archive(data)


def _check_archive(data: DataSettings) -> Finding:
    archive = mirrored(ARCHIVES[data.dataset])
    if found := look(archive, data.data_dir):
        return ok("data", f"{found}, whose checksums hold")
    return warning(
        "data", f"no {data.dataset} in {data.data_dir}",
        f"training fetches {archive.url}; without a network, place it there as {archive.file}",
    )  # fmt: skip


def _check_folder(data: DataSettings) -> Finding:
    train = ImageFolder(data.data_dir, "train", data.image_size, data.resize)
    apart = max(1, len(train.files) // NUM_DECODED)
    sample = train.files[::apart][:NUM_DECODED]
    for file in sample:
        read_image(file, data.image_size, data.resize)
    found = f"{len(train.files):,} images of {len(train.class_names)} classes in {data.data_dir}"
    if not Path(data.data_dir, "test").is_dir():
        return warning("data", f"{found}, and no test split", "add test/<class>/ to analyse with, or use --split val")
    ImageFolder(data.data_dir, "test", data.image_size, data.resize)
    return ok("data", f"{found}; {len(sample)} of them decoded")
