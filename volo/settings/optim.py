"""The optimizer's section of the settings."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from volo.errors import brief, cut
from volo.settings.section import Section, WeightsText

BACKBONE = "backbone"


class OptimSettings(Section):
    """How long to train, and how fast."""

    epochs: Annotated[int, Field(ge=1)] = 130
    """Passes over the training images."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many steps in total; the schedule is still that of --epochs."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop once this many epochs in a row bring no better validation accuracy. The schedule is still that of --epochs,
    so the learning rate may not have come down by then."""
    batch_size: Annotated[int, Field(ge=1)] = 256
    """Images per optimizer step, summed over all workers."""
    grad_accum_steps: Annotated[int, Field(ge=1)] = 1
    """Number of parts in which each worker computes its share of the batch, to save memory."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW for all weights; or Muon for hidden matrices and kernels, with AdamW for the rest."""
    lr: Annotated[float, Field(gt=0)] = 2e-3
    """Peak learning rate, of either optimizer."""
    min_lr: Annotated[float, Field(ge=0)] = 1e-5
    """Learning rate at the end of the cosine."""
    warmup_epochs: Annotated[float, Field(ge=0)] | None = None
    """Epochs of linear warmup; fractions are allowed. Default: a twentieth of the epochs."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Weight decay of matrices and kernels; biases, norms and embeddings have none."""
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """AdamW's second moment decay."""
    grad_clip: Annotated[float, Field(ge=0)] = 1.0
    """Largest gradient norm; 0: no clipping."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the moving average of the weights, which has its own warmup; 0: off."""
    use_amp: bool | None = None
    """Automatic mixed precision. Default: on with a GPU, off on CPUs."""
    autocast_dtype: Literal["fp16", "bf16"] | None = None
    """Data type of autocast. Default: bf16."""
    skip_nonfinite: Annotated[int, Field(ge=0)] = 0
    """Skip up to this many consecutive updates whose loss or gradient is not finite; 0: the first one ends training."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Ratio of each layer's learning rate to that of the layer above it, for fine-tuning; 1: the same for all."""
    init_weights: WeightsText | None = None
    """Weights to start from: a run (its best checkpoint), a checkpoint, or a file (.safetensors, or .pth of tensors)
    with published weights, timm's or this project's. They are fetched if you name an https:// address of such a file,
    hf://OWNER/NAME, or volo_d1_224 to volo_d5_512 as published. Position embeddings are resized, heads of other classes
    new."""
    freeze: int | str | None = None
    """Keep the first layers as they start: 0 is the stem and the embeddings, a number so many blocks too, backbone all
    but the last norm and the heads (a linear probe)."""
    whiten_stem: bool = False
    """Start the stem's first convolution as principal components of the training images' patches."""
    grad_checkpointing: bool = False
    """Keep only the inputs of the model's blocks and compute the rest again for the gradient: the same gradients in
    less memory and more time."""
    compile: bool = False
    """Train with torch.compile, which needs a C++ compiler on CPUs."""

    @field_validator("freeze")
    @classmethod
    def _check_freeze(cls, value: int | str | None) -> int | str | None:
        if value is None or value == BACKBONE:
            return value
        if re.fullmatch(r"\d{1,4}", str(value)):
            return int(value)
        raise ValueError(f"freeze must be a number of blocks, or {BACKBONE}, got {brief(value)}")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.freeze is not None and self.whiten_stem:
            raise ValueError(
                f"whiten_stem starts a stem that freeze keeps, got freeze={self.freeze} with it; omit one of them "
                "(--no-whiten-stem or --freeze None, if a recipe or a file sets it)"
            )
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr must not exceed lr, got min_lr={self.min_lr}, lr={self.lr}; lower --min-lr")
        if self.warmup_epochs is not None and self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs must be less than epochs, got warmup_epochs={self.warmup_epochs}, "
                f"epochs={self.epochs}; lower --warmup-epochs"
            )
        if self.whiten_stem and self.init_weights:
            raise ValueError(
                "whiten_stem has no effect with init_weights, got whiten_stem=True, "
                f"init_weights={cut(self.init_weights)}; omit one of them (--no-whiten-stem, if a recipe or a file "
                "sets it)"
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

    def resolved(self) -> "ResolvedOptim":
        return self.filled(ResolvedOptim, warmup_epochs=self.epochs / 20)


class ResolvedOptim(OptimSettings):
    """use_amp and autocast_dtype may be None: what it means depends on the device (volo/training/precision.py)."""

    warmup_epochs: float
