"""The settings of a published model."""

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from volo.settings.model.base import AnyModel, Count, Variant


class PublishedModel(AnyModel):
    """A published model, volo_d1 to volo_d5. These settings have no effect with another --model."""

    called: ClassVar[str] = "a published model"
    refusal: ClassVar[str] = "has no effect on a published model"
    remedies: ClassVar[dict[str, str]] = {
        "flat": "choose --model nano, tiny or small",
        "pyramid": "choose --model nano, tiny or small, with --hierarchical (form: pyramid)",
    }
    default_stride: ClassVar[int] = 2

    form: Literal["published"] = "published"
    """published: the paper's two grids, class attention and auxiliary head."""
    variant: Variant = "volo_d1"
    """volo_d1 to volo_d5."""
    layers: tuple[Count, Count, Count, Count] | None = None
    """Number of Outlookers, then of the transformer blocks of three stages."""
    embed_dims: tuple[Count, Count] | None = None
    """Width of the Outlookers, and of all later blocks."""
    stage_heads: tuple[Count, Count] | None = None
    """Attention heads of the Outlookers, and of all later blocks."""
    stem_dim: Count | None = None
    """Width of the stem's convolutions."""
    input_size: Count | None = None
    """Size in pixels to which the model enlarges images, whatever size they are stored in. Default: unchanged."""
    outlooker_drop_path: bool = True
    """Apply stochastic depth in the Outlookers also, unlike the published code."""

    @model_validator(mode="after")
    def _check_published(self) -> Self:
        for name in ("stem_channels", "stem_depth"):
            if (value := getattr(self, name)) is not None:
                raise ValueError(
                    f"{name} has no effect on a published model, got {name}={value}; set --stem-dim in its place"
                )
        full = self.resolved()
        if full.patch_size % 2:
            raise ValueError(f"patch_size must be even in a published model, got {full.patch_size}; set --patch-size")
        if any(dim % heads for dim, heads in zip(full.embed_dims, full.stage_heads, strict=True)):
            raise ValueError(
                "embed_dims must be divisible by stage_heads, "
                f"got embed_dims={full.embed_dims}, stage_heads={full.stage_heads}; set --embed-dims or --stage-heads"
            )
        if self.input_size is not None and self.input_size < full.patch_size:
            raise ValueError(
                "input_size must be at least patch_size, "
                f"got input_size={self.input_size}, patch_size={full.patch_size}; raise --input-size, or lower "
                "--patch-size"
            )
        return self

    def resolved(self) -> "ResolvedPublished":
        return self._of_variant(ResolvedPublished)


class ResolvedPublished(PublishedModel):
    """stem_channels and stem_depth are None: the published stem has its own settings. input_size may be None."""

    patch_size: int
    mlp_ratio: float
    outlook_stride: int
    layers: tuple[int, int, int, int]
    embed_dims: tuple[int, int]
    stage_heads: tuple[int, int]
    stem_dim: int

    @property
    def has_outlookers(self) -> bool:
        return True
