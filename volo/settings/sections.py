"""The sections of the settings but the model's: each typed, and checked for what contradicts within it.

A field that is None takes its value from elsewhere, as its description says (volo/settings/config.py).
"""

import contextlib
import re
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    ValidationInfo,
    field_validator,
    model_validator,
)

from volo.settings.durations import parse_duration
from volo.settings.paths import check_path


class Section(BaseModel):
    """What every section is: frozen once checked, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def _path_of(text: str, info: ValidationInfo) -> str:
    return check_path(text, info.field_name)


PathText = Annotated[str, AfterValidator(_path_of)]
WORKER_COUNTS = re.compile(r"(\d+)(?::(\d+))?")

VAL_FRACTION = 0.1  # where nothing else is stated

Dataset = Literal["cifar100", "cifar10", "imagefolder", "shapes"]

# Mean and standard deviation of pixels in [0, 1].
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NORMALISATION = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


class DataSettings(Section):
    """Which images, how they are read and split."""

    dataset: Dataset = "cifar100"
    """imagefolder reads class folders in train/, val/ and test/, or alone; shapes is drawn, not read."""
    data_dir: PathText | None = None
    """Where the data lies; cifar archives are fetched into it ($VOLO_DATA_MIRROR: from elsewhere). Default:
    ./data/<dataset>."""
    image_size: Annotated[int, Field(ge=1)] = 32
    """Pixels a side that images are resized to."""
    resize: Literal["crop", "squash"] = "crop"
    """crop keeps the aspect ratio and cuts the centre square; squash keeps all of the image."""
    val_fraction: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Part of the training images, class by class, held out for validation; 0: none, and no best checkpoint. Default:
    0.1, unless an image folder has a val/, valid/ or validation/ of its own."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the split; --seed does not change it, so seeds are comparable."""
    mean: tuple[float, float, float] | None = None
    """Of the red, green and blue of pixels in [0, 1], subtracted. Default: the data set's, else ImageNet's."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    """Divided by, likewise."""
    train_images: Annotated[int, Field(ge=1)] | None = None
    """Train on a stratified subset of so many images."""
    skip_damaged: bool = False
    """Leave out images of a folder that cannot be read, and list them in the run folder's damaged_images.txt."""

    @property
    def validates(self) -> bool:
        """Whether images are held out for validation."""
        return self.val_fraction != 0

    @property
    def resolved_fraction(self) -> float | None:
        """None where an image folder decides: only reading it tells whether it brings validation images."""
        return VAL_FRACTION if self.val_fraction is None and self.dataset != "imagefolder" else self.val_fraction

    @model_validator(mode="after")
    def _check(self):
        native = {"shapes": 32, "cifar10": 32, "cifar100": 32}.get(self.dataset)
        if native and self.resize != "crop":
            raise ValueError(f"resize has no effect on {self.dataset}, whose images are square; leave it out")
        if self.skip_damaged and self.dataset != "imagefolder":
            raise ValueError(
                f"skip_damaged has no effect on {self.dataset}, which is whole or refused as one; leave it out"
            )
        if self.dataset == "shapes" and self.image_size != native:
            raise ValueError(f"shapes are drawn at {native} pixels, got image_size={self.image_size}; leave it out")
        if self.dataset == "shapes" and self.data_dir is not None:
            raise ValueError(
                f"data_dir has no effect on shapes, which are drawn, got {self.data_dir!r}; leave it out, or choose "
                "another --dataset"
            )
        return self


class AugmentSettings(Section):
    """What happens to training images, each drawn from (seed, epoch, position)."""

    crop_padding: Annotated[int, Field(ge=0)] | None = None
    """Random crop after padding by so many pixels. Default: an eighth of the image size."""
    hflip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of a horizontal flip."""
    auto_augment: Literal["none", "trivial"] = "none"
    """trivial: one of TrivialAugment's 14 operations, of random strength, on every sample."""
    random_erasing: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that a box of 2 to 33% of the image is replaced by the mean colour."""
    mixup_alpha: Annotated[float, Field(ge=0)] = 0.0
    """Mixup's Beta(alpha, alpha) coefficient, per sample; 0: off."""
    cutmix_alpha: Annotated[float, Field(ge=0)] = 0.0
    """CutMix's Beta(alpha, alpha) area, per sample; 0: off. With mixup on too, each sample takes one of them."""
    mix_prob: Annotated[float, Field(ge=0, le=1)] | None = None
    """Probability that a sample is mixed. Default: 1 with mixup or cutmix on."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Probability mass spread over all classes."""

    @model_validator(mode="after")
    def _check(self):
        if self.mix_prob is not None and not (self.mixup_alpha or self.cutmix_alpha):
            raise ValueError(
                f"mix_prob has no effect without mixup or cutmix, got mix_prob={self.mix_prob}, mixup_alpha=0, "
                "cutmix_alpha=0; set --mixup-alpha or --cutmix-alpha, or leave mix_prob out (--mix-prob None, if a "
                "recipe or a file sets it)"
            )
        return self


class OptimSettings(Section):
    """How long and how fast."""

    epochs: Annotated[int, Field(ge=1)] = 130
    """Passes over the training images."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Stop after so many steps in all; the schedule stays that of --epochs."""
    batch_size: Annotated[int, Field(ge=1)] = 256
    """Images per optimizer step, over all workers."""
    grad_accum_steps: Annotated[int, Field(ge=1)] = 1
    """Parts each worker's share of the batch is computed in, to save memory."""
    lr: Annotated[float, Field(gt=0)] = 2e-3
    """Peak learning rate of AdamW."""
    min_lr: Annotated[float, Field(ge=0)] = 1e-5
    """Learning rate at the end of the cosine."""
    warmup_epochs: Annotated[float, Field(ge=0)] | None = None
    """Linear warm-up, may be a fraction of an epoch. Default: a twentieth of the epochs."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """On weight matrices and kernels only."""
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """AdamW's second moment decay."""
    grad_clip: Annotated[float, Field(ge=0)] = 1.0
    """Largest gradient norm; 0: no clipping."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Moving average of the weights, with a warm-up of its own; 0: off."""
    use_amp: bool | None = None
    """Automatic mixed precision. Default: on where there is a GPU, off on CPU."""
    autocast_dtype: Literal["fp16", "bf16"] | None = None
    """Type of the autocast. Default: bf16."""
    skip_nonfinite: Annotated[int, Field(ge=0)] = 0
    """Leave out up to so many updates in a row whose loss or gradient is not finite; 0: the first one ends training."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each layer's learning rate over that of the one above it, for fine-tuning; 1: all learn alike."""
    init_weights: PathText | None = None
    """Weights to begin with: a run (its best checkpoint), a checkpoint, or a file, .safetensors or .pth of tensors;
    published, timm's or this project's. Position embeddings are resized, heads of other classes start afresh."""
    compile: bool = False
    """Train the model under torch.compile, which on a CPU needs a C++ compiler there."""

    @model_validator(mode="after")
    def _check(self):
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr must not exceed lr, got min_lr={self.min_lr}, lr={self.lr}; lower --min-lr")
        if self.warmup_epochs is not None and self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs must be less than epochs, got warmup_epochs={self.warmup_epochs}, "
                f"epochs={self.epochs}; lower --warmup-epochs"
            )
        if self.grad_accum_steps > self.batch_size:
            raise ValueError(
                "grad_accum_steps must not exceed batch_size, "
                f"got grad_accum_steps={self.grad_accum_steps}, batch_size={self.batch_size}; lower --grad-accum-steps"
            )
        if self.use_amp is False and self.autocast_dtype:
            raise ValueError(
                f"autocast_dtype has no effect with --no-amp, got autocast_dtype={self.autocast_dtype}; leave it out, "
                "or give --use-amp in place of --no-amp"
            )
        return self


class TeachingSettings(Section):
    """What a trained model teaches besides the labels. Without --teacher none of these has an effect."""

    teacher: PathText | None = None
    """A model of this project with the same classes: a run folder, a checkpoint or a model file."""
    distillation: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of the teacher's class probabilities; the labels have the rest."""
    token_labels: bool = False
    """Published models: teach the auxiliary head the teacher's classes of every patch."""
    token_label_weight: Annotated[float, Field(gt=0)] = 0.5
    """Of the patches' loss; the labels' has 1."""
    mix_token: bool = False
    """MixToken, with token_labels: exchange a box of patches between two images."""

    @model_validator(mode="after")
    def _check(self):
        if self.teacher and not (self.distillation or self.token_labels):
            raise ValueError(
                f"teacher has no effect without distillation or token_labels, got teacher={self.teacher}; set "
                "--distillation 0.5, or --token-labels with a published model"
            )
        if not self.teacher and (self.distillation or self.token_labels):
            raise ValueError(
                f"distillation and token_labels need a teacher, got distillation={self.distillation}, "
                f"token_labels={self.token_labels}; name one with --teacher"
            )
        default = type(self).model_fields["token_label_weight"].default
        if not self.token_labels and (self.mix_token or self.token_label_weight != default):
            name = "mix_token" if self.mix_token else "token_label_weight"
            raise ValueError(
                f"{name} has no effect without token_labels, got {name}={getattr(self, name)}; leave it out, or set "
                "--token-labels, with a --teacher and a published model"
            )
        return self


class RunSettings(Section):
    """Where the run is kept, and how it is started; nothing here but the seed can change its result."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of everything random in training but the split."""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] | None = None
    """Train once with each of these seeds, one after the other, into <run_name>/seed<seed>; sums up at the end."""
    output_dir: PathText = "./outputs"
    """Folder of the run folders; on a cluster, one that every node sees."""
    run_name: Annotated[str, Field(min_length=1, pattern=r"^[\w.+-]+(/[\w.+-]+)*$")] | None = None
    """Name of the run's folder. Default: the recipe, or <dataset>-<model>; then the form, where it is not a flat model
    that pools the mean: nano-cli, nano-pyramid-token."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    """Newest checkpoints kept, besides the best."""
    checkpoint_every: Annotated[str, BeforeValidator(str)] | None = None
    """Checkpoints besides the one after every epoch: 200 is every 200 steps, 5m every five minutes (s, m, h)."""
    log_every: Annotated[int, Field(ge=1)] = 10
    """Steps between logged points."""
    hang_timeout: str = "10m"
    """End the run, naming the rank that hangs, when no step, batch of a validation or save has begun for so long (90s,
    10m, 2h); 0: never. Until the first step is done, at least an hour and a half, for data and compilers."""
    resume_path: PathText | None = None
    """Start from this checkpoint's state: a run folder, its best or last, or a checkpoint folder."""
    fresh: bool = False
    """Rename a run of this name and start anew."""
    num_workers: int | str | None = None
    """Ray workers, or MIN:MAX of them, as many as the cluster has; 0: this process, without Ray. Default: the cluster's
    GPUs, else 1."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Under Ray: how often lost workers are started again, from the newest checkpoint, before giving up."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where workers compute; auto: on GPUs where there is one for each, else on the CPU."""
    address: Annotated[str, Field(min_length=1)] | None = None
    """Ray cluster to use. Default: $RAY_ADDRESS, else a cluster of its own on this machine."""
    dashboard_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Where the dashboard and job API of a cluster of its own listen; any but loopback needs a token of yours, in
    $RAY_AUTH_TOKEN or ~/.ray/auth_token."""

    @property
    def checkpoint_steps(self) -> int | None:
        """Steps between checkpoints, where they go by steps."""
        every = self.checkpoint_every
        return int(every) if every is not None and every.isdigit() else None

    @property
    def checkpoint_s(self) -> float | None:
        """Seconds between checkpoints, where they go by time."""
        every = self.checkpoint_every
        return parse_duration(every) if every is not None and not every.isdigit() else None

    @field_validator("checkpoint_every")
    @classmethod
    def _check_checkpoint_every(cls, every: str | None) -> str | None:
        with contextlib.suppress(ValueError):
            if every is None or parse_duration(every) > 0:
                return every
        raise ValueError(
            f"checkpoint_every must be a number of steps or a duration above 0, as in 200, 90s or 5m, got {every!r}"
        )

    @field_validator("hang_timeout", mode="before")
    @classmethod
    def _check_hang_timeout(cls, value: str | float) -> str:
        try:
            parse_duration(value)
        except ValueError as error:
            raise ValueError(f"hang_timeout: {error}") from None
        return str(value)

    @property
    def min_workers(self) -> int | None:
        """The fewest workers to train with; None where the cluster decides."""
        return int(str(self.num_workers).split(":")[0]) if self.num_workers is not None else None

    @property
    def max_workers(self) -> int | None:
        """The most workers to train with; None where the cluster decides."""
        return int(str(self.num_workers).split(":")[-1]) if self.num_workers is not None else None

    @property
    def is_elastic(self) -> bool:
        """Whether the number of workers may change while they train."""
        return self.min_workers != self.max_workers

    @field_validator("num_workers")
    @classmethod
    def _check_num_workers(cls, value: int | str | None) -> int | str | None:
        found = WORKER_COUNTS.fullmatch(str(value))
        if value is None or (found and found[2] and 1 <= int(found[1]) <= int(found[2])):
            return value
        if found and not found[2]:
            return int(found[1])
        raise ValueError(f"num_workers must be a number, or MIN:MAX with 1 <= MIN <= MAX, got {value!r}")

    @model_validator(mode="after")
    def _check(self):
        if self.run_name and any(part in ("", ".", "..") for part in self.run_name.split("/")):
            raise ValueError(
                f"run_name must name a folder below output_dir, got {self.run_name!r}; set --output-dir for another "
                "place"
            )
        if self.seeds is not None:
            self._check_seeds(self.seeds)
        if self.fresh and self.resume_path:
            raise ValueError(
                f"fresh starts anew and resume_path starts from a checkpoint, got fresh and resume_path="
                f"{self.resume_path}; give one of them"
            )
        if self.num_workers == 0 and self.address:
            raise ValueError(
                f"address has no effect with num_workers=0, which starts no Ray, got address={self.address!r}; drop one"
            )
        is_default = self.dashboard_host == type(self).model_fields["dashboard_host"].default
        if not is_default and (self.num_workers == 0 or self.address):
            raise ValueError(
                f"dashboard_host is that of a cluster of the run's own, got dashboard_host={self.dashboard_host} with "
                f"num_workers={self.num_workers}, address={self.address!r}; leave it out"
            )
        return self

    def _check_seeds(self, seeds: tuple[int, ...]) -> None:
        if not seeds or len({*seeds}) < len(seeds):
            raise ValueError(f"seeds must be one or more, all different, got seeds={list(seeds)}; give each once")
        if self.seed:
            raise ValueError(f"seed has no effect with seeds, got seed={self.seed}, seeds={list(seeds)}; give one")
        if self.resume_path:
            raise ValueError(
                f"resume_path starts one run from a checkpoint, got seeds={list(seeds)} with it; give --seed in place "
                "of --seeds"
            )
