"""Named experiments: settings laid over the defaults, what to expect of each, and the command that runs it."""

from dataclasses import dataclass
from typing import Any

from volo.errors import InputError, brief


@dataclass(frozen=True)
class Recipe:
    """`settings` is a nested dictionary as in a YAML file; `expects` says accuracy, time and machine."""

    expects: str
    settings: dict[str, Any]


def quickstart() -> Recipe:
    """volo pipeline --recipe quickstart"""
    return Recipe(
        expects="top-1 92 to 95% of 100 drawn classes after 40 seconds of training on two CPU cores",
        settings=dict(
            model=dict(variant="quickstart"),
            data=dict(dataset="shapes"),
            augment=dict(crop_padding=2, label_smoothing=0.0, resize_schedule=("0.75:0.6",)),
            optim=dict(
                optimizer="muon",
                whiten_stem=True,
                epochs=2,
                batch_size=64,
                lr=16e-3,
                weight_decay=0.02,
                ema_decay=0.99,
                use_amp=False,
            ),
            run=dict(num_workers=2),
        ),
    )


def nano() -> Recipe:
    """volo train --recipe nano --dataset imagefolder --data-dir data/cifar10-jpeg --num-workers 0"""
    return Recipe(
        expects="82% top-1 on ten classes of 32x32 photographs; 18 minutes on two CPU cores",
        settings=dict(
            model=dict(variant="nano"),
            augment=dict(resize_schedule=("0.75:0.6",)),
            optim=dict(optimizer="muon", whiten_stem=True, epochs=10, batch_size=64, lr=8e-3, ema_decay=0.999),
        ),
    )


def tiny() -> Recipe:
    """volo train --recipe tiny --dataset cifar100"""
    return Recipe(
        expects="not measured yet; one GPU",
        settings=dict(
            model=dict(variant="tiny", drop_path_rate=0.05),
            augment=dict(mixup_alpha=0.8, cutmix_alpha=1.0),
        ),
    )


def small() -> Recipe:
    """volo train --recipe small --dataset cifar100"""
    return Recipe(
        expects="not measured yet; one GPU",
        settings=dict(
            model=dict(variant="small", drop_path_rate=0.1),
            augment=dict(mixup_alpha=0.8, cutmix_alpha=1.0),
        ),
    )


PHOTOGRAPHS: dict[str, Any] = dict(
    model=dict(variant="nano", patch_size=16, stem_channels=(16, 48, 96)),
    data=dict(dataset="imagefolder", image_size=128),
)
CUT: dict[str, Any] = dict(crop_area=(0.35, 1.0), auto_augment="trivial", resize_schedule=("0.5:0.4", "0.75:0.7"))


def photos() -> Recipe:
    """volo pipeline --recipe photos --data-dir data/photos"""
    return Recipe(
        expects="75% top-1 of five flowers, from 2,721 photographs; 14 minutes on two CPU cores",
        settings=dict(
            **PHOTOGRAPHS,
            augment=CUT,
            optim=dict(optimizer="muon", whiten_stem=True, epochs=80, batch_size=64, lr=8e-3, ema_decay=0.999),
        ),
    )


def photos_finetune() -> Recipe:
    """volo pipeline --recipe photos-finetune --init-weights outputs/photos --data-dir data/more"""
    return Recipe(
        expects="74% top-1 of five flowers, from 2,721 photographs and weights of CIFAR-10; 4 minutes on two CPU cores",
        settings=dict(
            **PHOTOGRAPHS,
            augment=CUT,
            optim=dict(optimizer="muon", epochs=20, batch_size=64, lr=8e-3, ema_decay=0.999),
        ),
    )


def imagenet_d1() -> Recipe:
    """volo train --recipe imagenet-d1 --data-dir data/imagenet --num-workers 8"""
    return Recipe(
        expects="not measured; the published 84.2% used token labels, without which others report 81.7%; 8 GPUs, days",
        settings=dict(
            model=dict(variant="volo_d1", drop_path_rate=0.1),
            data=dict(dataset="imagefolder", image_size=224, crop_pct=0.96),
            augment=dict(
                crop_area=(0.08, 1.0),
                auto_augment="rand",
                random_erasing=0.25,
                mixup_alpha=0.8,
                cutmix_alpha=1.0,
                label_smoothing=0.1,
            ),
            optim=dict(epochs=310, warmup_epochs=20.0, batch_size=1024, lr=1.6e-3, grad_clip=0.0, ema_decay=0.9999),
        ),
    )


RECIPES = {
    recipe.__name__.replace("_", "-"): recipe
    for recipe in (quickstart, nano, tiny, small, photos, photos_finetune, imagenet_d1)
}


def recipe_settings(name: Any) -> dict[str, Any]:
    """Settings of a recipe. Raises InputError for anything but the name of one."""
    if not (isinstance(name, str) and name in RECIPES):
        raise InputError(f"--recipe must be one of {', '.join(RECIPES)}, got {brief(name)}")
    return {"recipe": name, **RECIPES[name]().settings}
