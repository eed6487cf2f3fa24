"""A trained model of this project as a teacher: class probabilities of images and of their patches.

It sees the same augmented and mixed images as the student, so its labels need no bookkeeping of crops and boxes.
Shapes: B images (B, C, H, W), normalized for the student; K classes.
"""

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from volo.data.folders.class_names import differences, places
from volo.errors import InputError
from volo.runs import checkpoint
from volo.runs.model_file import Description
from volo.runs.rebuild import check_described, rebuild
from volo.settings.config import ResolvedSettings, Settings


class Teacher:
    """Computes class probabilities without gradients.

    Args:
        path: A model, as `checkpoint.find` takes it.
        settings: Resolved settings of the student.
        class_names: Classes of the student.
        device: The device to compute on.

    Raises:
        InputError: there is no model at `path`, or it has other classes or sees other channels.
    """

    def __init__(self, path: Path, settings: ResolvedSettings, class_names: tuple[str, ...], device: torch.device):
        self.model, description = rebuild(path)
        check_classes(path, description, class_names)
        check_channels(path, description, settings)
        own = description.settings
        self.model.to(device).eval().requires_grad_(False)
        self.order = torch.tensor(places(class_names, description.class_names), device=device)
        self.image_size = own.data.image_size
        # (x * std + mean - own mean) / own std: from the student's normalization to the teacher's.
        mean, std = (torch.tensor(value, device=device) for value in (settings.data.mean, settings.data.std))
        own_mean, own_std = (torch.tensor(value, device=device) for value in (own.data.mean, own.data.std))
        self.scale, self.shift = ((std / own_std), (mean - own_mean) / own_std)

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """(B, K) float32, with the classes in the student's order."""
        return self._ordered(self.model(self._prepared(images)))

    @torch.no_grad()
    def patch_probabilities(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, h, w, K) float32 for a grid of (h, w) patches, resized (bilinear) from the teacher's own grid."""
        patches = self._ordered(self.model.dense(self._prepared(images)).patch_logits)
        if patches.shape[1:3] == grid:
            return patches
        resized = F.interpolate(patches.permute(0, 3, 1, 2), size=grid, mode="bilinear", antialias=True)
        return resized.permute(0, 2, 3, 1)

    def _prepared(self, images: Tensor) -> Tensor:
        images = images * self.scale[:, None, None] + self.shift[:, None, None]
        size = (self.image_size, self.image_size)
        return images if images.shape[-2:] == size else F.interpolate(images, size, mode="bilinear", antialias=True)

    def _ordered(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(dim=-1)[..., self.order]


def find_teacher(settings: Settings) -> Path | None:
    """The model that teaches, if any. Raises InputError if there is none where the settings say."""
    return checkpoint.find(settings.teaching.teacher) if settings.teaching.teacher else None


def digest_of(teacher: Path | None) -> str:
    """sha256 of the names, types, shapes and values of a model's weights; empty for None."""
    if teacher is None:
        return ""
    digest = hashlib.sha256()
    for name, tensor in sorted(checkpoint.load_model(teacher)[0].items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_same_teacher(digest: str, had: str | None, teacher: Path | None, what: str) -> None:
    """Compares the teacher's weights with those of an earlier start; where they lie may change.

    Args:
        digest: Of the earlier weights; empty if there was no teacher, or if a version before recorded none.
        had: What the earlier settings named as the teacher.
        teacher: What `find_teacher` returns now.
        what: Resumes: "a run".

    Raises:
        InputError: other weights.
    """
    if digest and digest_of(teacher) != digest:
        place = _same_elsewhere(Path(had), digest) if had else ""
        raise InputError(
            f"{what} must resume with the teacher it started with, got other weights in {teacher}; name what taught it "
            f"with --teacher{place and f', now {place}'}, or use --fresh to rename the old one and start again"
        )


def _same_elsewhere(had: Path, digest: str) -> str:
    """The checkpoint of the same run that has the weights, if it is still there."""
    for folder in sorted(had.glob("checkpoints/*")):
        try:
            if digest_of(folder) == digest:
                return str(folder)
        except InputError:
            continue
    return ""


def check_teacher(settings: Settings, class_names: tuple[str, ...]) -> None:
    """Raises InputError if the settings name a teacher that cannot be used for these classes."""
    if path := find_teacher(settings):
        weights, description = checkpoint.load_model(path)
        check_classes(path, description, class_names)
        check_channels(path, description, settings)
        check_described(weights, description, path)


def check_classes(path: Path, description: Description, class_names: tuple[str, ...]) -> None:
    if differing := differences(description.class_names, class_names):
        raise InputError(
            f"a teacher must know the same classes, got {path} with {len(description.class_names)} for "
            f"{len(class_names)}; {differing}"
        )


def check_channels(path: Path, description: Description, settings: Settings) -> None:
    """Raises InputError if the teacher sees other channels than the student, whose images it is given."""
    own, now = description.settings.data.in_chans, settings.data.in_chans
    if own != now:
        raise InputError(
            f"a teacher must see images of as many channels, got {path} with in_chans={own} for in_chans={now}; set "
            f"--in-chans {own}, or name another --teacher"
        )
