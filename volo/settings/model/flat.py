"""The settings of a model on one grid."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from volo.settings.model.base import AnyModel, Count

CLASS_DEPTH = 2


class FlatModel(AnyModel):
    """A model on one grid. These settings have no effect with --hierarchical."""

    called: ClassVar[str] = "a flat model"
    refusal: ClassVar[str] = "has no effect on a flat model"
    remedies: ClassVar[dict[str, str]] = {
        "pyramid": "make it a pyramid with --hierarchical (form: pyramid)",
        "published": "choose --model volo_d1 to volo_d5",
    }

    form: Literal["flat"] = "flat"
    """flat: one grid."""
    embed_dim: Count | None = None
    """Width of the tokens."""
    num_heads: Count | None = None
    """Attention heads of local and global blocks."""
    local_depth: Annotated[int, Field(ge=0)] | None = None
    """Outlooker blocks."""
    global_depth: Annotated[int, Field(ge=0)] | None = None
    """Transformer blocks."""
    pooling: Literal["mean", "cls", "cli"] = "mean"
    """How tokens are pooled for the head: mean; cls, a class token that passes through all global blocks; or cli, a
    class token that class attention fills after them."""
    class_depth: Count | None = None
    """Class-attention blocks of pooling cli. Default: 2."""

    @model_validator(mode="after")
    def _check_flat(self) -> Self:
        full = self.resolved()
        if full.embed_dim % full.num_heads:
            raise ValueError(
                f"embed_dim must be divisible by num_heads, got embed_dim={full.embed_dim}, "
                f"num_heads={full.num_heads}; set --embed-dim to a multiple of it, or --num-heads"
            )
        if full.local_depth + full.global_depth == 0:
            raise ValueError(
                "the model needs a block, got local_depth=0, global_depth=0; set --local-depth or --global-depth"
            )
        if self.class_depth is not None and self.pooling != "cli":
            raise ValueError(
                "class_depth has no effect without pooling=cli, "
                f"got class_depth={self.class_depth}, pooling={self.pooling}; leave it out, or set --pooling cli"
            )
        if self.pooling == "cls" and full.global_depth == 0:
            raise ValueError(
                "pooling=cls needs a global block, where the class token meets the patches, got global_depth=0; "
                "set --global-depth, or --pooling cli"
            )
        return self

    @property
    def suffix(self) -> str:
        """What a run's default name adds to the variant's."""
        return "" if self.pooling == "mean" else f"-{self.pooling}"

    def resolved(self) -> "ResolvedFlat":
        return self._of_variant(ResolvedFlat, class_depth=CLASS_DEPTH if self.pooling == "cli" else None)


class ResolvedFlat(FlatModel):
    """class_depth is None without pooling cli, where it has no effect."""

    patch_size: int
    stem_channels: tuple[int, ...]
    stem_depth: int
    mlp_ratio: float
    outlook_stride: int
    embed_dim: int
    num_heads: int
    local_depth: int
    global_depth: int

    @property
    def has_outlookers(self) -> bool:
        return self.local_depth > 0
