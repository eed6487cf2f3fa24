"""The settings of a model in stages."""

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from volo.settings.model.base import AnyModel, Count

OF_STAGES = ("stage_kinds", "stage_depths", "stage_embed_dims", "stage_num_heads")


class PyramidModel(AnyModel):
    """A model in stages, finest map first. These settings have no effect without --hierarchical."""

    called: ClassVar[str] = "a pyramid"
    refusal: ClassVar[str] = "has no effect on a pyramid, which has stages and pools their mean"
    remedies: ClassVar[dict[str, str]] = {
        "flat": "make it a flat model with --no-hierarchical (form: flat)",
        "published": "choose --model volo_d1 to volo_d5 without --hierarchical",
    }

    form: Literal["pyramid"] = "pyramid"
    """pyramid: stages whose maps halve."""
    downsample_kind: Literal["map", "token"] = "map"
    """Downsampling between stages: map, a strided convolution, or token, which merges neighboring tokens."""
    stage_kinds: tuple[Literal["local", "global"], ...] | None = None
    """Kind of each stage: local (Outlookers) or global (transformer blocks)."""
    stage_depths: tuple[Count, ...] | None = None
    """Blocks of each stage."""
    stage_embed_dims: tuple[Count, ...] | None = None
    """Width of each stage."""
    stage_num_heads: tuple[Count, ...] | None = None
    """Attention heads of each stage."""

    @model_validator(mode="after")
    def _check_stages(self) -> Self:
        full = self.resolved()
        stages = {name: getattr(full, name) for name in OF_STAGES}
        if not full.stage_kinds or len({len(values) for values in stages.values()}) > 1:
            raise ValueError(
                f"{', '.join(stages)} must have one value for each stage, got "
                + ", ".join(
                    f"{len(values)} {name}{'' if getattr(self, name) else f' (of {self.variant})'}"
                    for name, values in stages.items()
                )
                + "; give all four"
            )
        for number, (dim, heads) in enumerate(zip(full.stage_embed_dims, full.stage_num_heads, strict=True), start=1):
            if dim % heads:
                raise ValueError(
                    "stage_embed_dims must be divisible by stage_num_heads stage by stage, "
                    f"got {dim} and {heads} in stage {number}; set --stage-embed-dims or --stage-num-heads"
                )
        if len(full.stage_kinds) == 1 and self.downsample_kind != "map":
            raise ValueError(
                f"downsample_kind has no effect on a single stage, got {self.downsample_kind}; leave it out"
            )
        return self

    @property
    def suffix(self) -> str:
        """What a run's default name adds to the variant's."""
        return f"-pyramid-{self.downsample_kind}"

    def resolved(self) -> "ResolvedPyramid":
        return self._of_variant(ResolvedPyramid)


class ResolvedPyramid(PyramidModel):
    patch_size: int
    stem_channels: tuple[int, ...]
    stem_depth: int
    mlp_ratio: float
    outlook_stride: int
    stage_kinds: tuple[Literal["local", "global"], ...]
    stage_depths: tuple[int, ...]
    stage_embed_dims: tuple[int, ...]
    stage_num_heads: tuple[int, ...]

    @property
    def has_outlookers(self) -> bool:
        return "local" in self.stage_kinds
