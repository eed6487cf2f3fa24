"""The optimizer's section of the settings."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from volo.settings.section import PathText, Section


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
    def _check(self) -> Self:
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

    def resolved(self) -> "ResolvedOptim":
        return self.filled(ResolvedOptim, warmup_epochs=self.epochs / 20)


class ResolvedOptim(OptimSettings):
    """use_amp and autocast_dtype may be None: what it means depends on the device (volo/training/precision.py)."""

    warmup_epochs: float
