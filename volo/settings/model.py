"""The model's section of the settings: flat, a pyramid or a published model, a tagged union, so that no mixture can be
written down.

`form` is the tag; without it the variant decides: flat for the project's own, published for volo_d1 to volo_d5. Fields
that are None are the variant's own (volo/settings/sizes.py).
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from volo.settings.sections import Section
from volo.settings.sizes import VARIANTS, forms_of

Variant = Literal["quickstart", "nano", "tiny", "small", "volo_d1", "volo_d2", "volo_d3", "volo_d4", "volo_d5"]
Count = Annotated[int, Field(ge=1)]
CLASS_DEPTH = 2
OF_OUTLOOKERS = dict(kernel_size=3, outlook_stride=1, outlook_op="auto")  # what they are without any
OF_STAGES = ("stage_kinds", "stage_depths", "stage_embed_dims", "stage_num_heads")


class AnyModel(Section):
    """What is built. Fields left empty are the variant's own (volo/settings/sizes.py)."""

    default_stride: ClassVar[int] = 1

    form: str
    variant: Variant = "nano"
    """Size of the model: nano (CPU), tiny, small, quickstart's own, or a published one, volo_d1 to volo_d5."""
    patch_size: Count | None = None
    """Pixels a side of a patch; sizes it does not divide are padded."""
    stem_channels: tuple[Count, ...] | None = None
    """Widths of the levels of overlapping 3x3 convolutions before the patch projection; each level halves the image."""
    stem_depth: Count | None = None
    """Convolutions of each level of the stem."""
    mlp_ratio: Annotated[float, Field(gt=0)] | None = None
    """Hidden width of the MLPs over the embedding width."""
    kernel_size: Count = 3
    """Side of outlook attention's window; odd."""
    outlook_stride: Count | None = None
    """Stride of outlook attention's windows. Default: 1; 2 in a published model."""
    drop_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout after every projection and in the MLPs."""
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth of the last local or global block; earlier ones linearly less."""
    outlook_op: Literal["auto", "reference", "dense", "cpu", "fused"] = "auto"
    """Formulation of outlook attention; auto chooses by device, dtype, map size and stride."""

    @model_validator(mode="before")
    @classmethod
    def _check_form(cls, values: Any) -> Any:
        """A form of None is the variant's own."""
        if not isinstance(values, dict):
            return values
        form = cls.model_fields["form"].default
        _check_has(values.get("variant", cls.model_fields["variant"].default), form)
        for name, value in values.items():
            if (owner := _owner(name)) not in (None, form):
                raise ValueError(f"{name} {cls.refusal}, got {name}={value!r}; {cls.remedies[owner]}, or leave it out")
        return {name: value for name, value in values.items() if name != "form" or value is not None}

    @model_validator(mode="after")
    def _check_windows(self) -> Self:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {self.kernel_size}; 3 is the paper's")
        full = self.resolved()
        if full.outlook_stride > self.kernel_size:
            raise ValueError(
                "outlook_stride must not exceed kernel_size, or pixels lie in no window, "
                f"got outlook_stride={full.outlook_stride}, kernel_size={self.kernel_size}; lower --outlook-stride, or "
                "raise --kernel-size"
            )
        if full.patch_size % 2 ** len(full.stem_channels or ()):
            raise ValueError(
                "patch_size must be divisible by 2 for every level of the stem, got "
                f"patch_size={full.patch_size}, {len(full.stem_channels)} stem_channels; set --patch-size to a "
                f"multiple of {2 ** len(full.stem_channels)}, or give fewer --stem-channels"
            )
        if self.stem_depth is not None and not full.stem_channels:
            raise ValueError(
                f"stem_depth has no effect without stem_channels, got stem_depth={self.stem_depth}; leave it out"
            )
        if not full.has_outlookers:
            for name, plain in OF_OUTLOOKERS.items():
                if (value := getattr(full, name)) != plain:
                    raise ValueError(f"{name} has no effect without a local block, got {name}={value}; leave it out")
        return self

    def resolved(self) -> Self:
        own = VARIANTS[self.variant][self.form] | {"outlook_stride": self.default_stride}
        return self.model_copy(update={name: value for name, value in own.items() if getattr(self, name) is None})


class FlatModel(AnyModel):
    """A model on one grid. With --hierarchical none of these has an effect."""

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
    """Attention heads, local and global."""
    local_depth: Annotated[int, Field(ge=0)] | None = None
    """Outlooker blocks."""
    global_depth: Annotated[int, Field(ge=0)] | None = None
    """Transformer blocks."""
    pooling: Literal["mean", "cls", "cli"] = "mean"
    """Of the tokens for the head: their mean; cls, a class token through all global blocks; or cli, a class token that
    class attention fills after them."""
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
    def has_outlookers(self) -> bool:
        return bool(self.local_depth)

    @property
    def suffix(self) -> str:
        """What a run's default name adds to the variant's."""
        return "" if self.pooling == "mean" else f"-{self.pooling}"

    def resolved(self) -> Self:
        full = super().resolved()
        if self.pooling == "cli" and self.class_depth is None:
            full = full.model_copy(update=dict(class_depth=CLASS_DEPTH))
        return full


class PyramidModel(AnyModel):
    """A model in stages, finest map first. Without --hierarchical none of these has an effect."""

    called: ClassVar[str] = "a pyramid"
    refusal: ClassVar[str] = "has no effect on a pyramid, which has stages and pools their mean"
    remedies: ClassVar[dict[str, str]] = {
        "flat": "make it a flat model with --no-hierarchical (form: flat)",
        "published": "choose --model volo_d1 to volo_d5 without --hierarchical",
    }

    form: Literal["pyramid"] = "pyramid"
    """pyramid: stages whose maps halve."""
    downsample_kind: Literal["map", "token"] = "map"
    """Between stages: map, a strided convolution, or token, neighbouring tokens merged."""
    stage_kinds: tuple[Literal["local", "global"], ...] | None = None
    """Of each stage: local (Outlookers) or global (transformer blocks)."""
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
    def has_outlookers(self) -> bool:
        return "local" in self.stage_kinds

    @property
    def suffix(self) -> str:
        """What a run's default name adds to the variant's."""
        return f"-pyramid-{self.downsample_kind}"


class PublishedModel(AnyModel):
    """A published model, volo_d1 to volo_d5. With another --model none of these has an effect."""

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
    """Outlookers, then the transformer blocks of three stages."""
    embed_dims: tuple[Count, Count] | None = None
    """Width of the outlookers, and of what follows."""
    stage_heads: tuple[Count, Count] | None = None
    """Attention heads, likewise."""
    stem_dim: Count | None = None
    """Width of the stem's convolutions."""
    input_size: Count | None = None
    """Pixels a side that images are enlarged to inside the model, whatever size they are kept in. Default: not."""
    outlooker_drop_path: bool = True
    """Stochastic depth in the outlookers too, unlike the published code."""

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

    @property
    def has_outlookers(self) -> bool:
        return True

    @property
    def suffix(self) -> str:
        """What a run's default name adds to the variant's."""
        return ""


FORMS: dict[str, type[FlatModel] | type[PyramidModel] | type[PublishedModel]] = {
    "flat": FlatModel,
    "pyramid": PyramidModel,
    "published": PublishedModel,
}


def _form_of(values: Any) -> str:
    if isinstance(values, dict):
        form, variant = values.get("form"), values.get("variant")
        is_known = isinstance(variant, str) and variant in VARIANTS
        return str(form) if form is not None else (forms_of(variant)[0] if is_known else "flat")
    return getattr(values, "form", "flat")


ModelSettings = Annotated[
    Annotated[FlatModel, Tag("flat")]
    | Annotated[PyramidModel, Tag("pyramid")]
    | Annotated[PublishedModel, Tag("published")],
    Discriminator(_form_of),
]


def own_fields(form: str) -> list[str]:
    """The settings that this form has and no other, but for the tag."""
    return [name for name in FORMS[form].model_fields if name not in AnyModel.model_fields]


def not_default(values: dict[str, Any]) -> dict[str, Any]:
    """Of settings that one form alone has those that differ from its defaults."""
    defaults = {name: FORMS[_owner(name)].model_fields[name].default for name in values}
    return {name: value for name, value in values.items() if value not in (None, defaults[name])}


def for_form_of(above: dict[str, Any], below: dict[str, Any]) -> dict[str, Any]:
    """`below` without what belongs to its form alone, where `above` sets another."""
    before, after = _form_of(below), _form_of({**below, **above})
    if before == after or before not in FORMS:
        return below
    return {name: value for name, value in below.items() if name not in own_fields(before)}


def _owner(name: Any) -> str | None:
    """The form that alone has this setting."""
    return next((form for form in FORMS if name in own_fields(form)), None)


def _check_has(variant: Any, form: str) -> None:
    """Raises ValueError if a size of this name has no such form."""
    if isinstance(variant, str) and variant in VARIANTS and form not in forms_of(variant):
        others = [name for name in VARIANTS if form in forms_of(name)]
        raise ValueError(
            f"the form must be one that {variant} has ({' or '.join(forms_of(variant))}), got {form}; choose --model "
            f"{', '.join(others)}, or leave --hierarchical and form out"
        )
