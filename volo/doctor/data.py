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
        read_image(file.name, data.image_size, data.resize)
    found = f"{len(train.files):,} images of {len(train.class_names)} classes in {data.data_dir}"
    passed_over, remedies = train.passed_over, []
    if Path(data.data_dir, "test").is_dir():
        passed_over.add(ImageFolder(data.data_dir, "test", data.image_size, data.resize).passed_over)
        found += f"; {len(sample)} of them decoded"
    else:
        found += ", and no test split"
        remedies.append("add test/<class>/ to analyze with, or use --split val")
    if passed_over:
        found += f"; passed over: {passed_over.in_words()}"
        remedies += filter(None, [passed_over.remedy()])
    return warning("data", found, ", and ".join(remedies)) if remedies else ok("data", found)
