"""What the forms of the model share."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from volo.errors import brief
from volo.settings.section import Resolved, Section
from volo.settings.sizes import VARIANTS, forms_of

if TYPE_CHECKING:
    from volo.settings.model import ResolvedModel

Variant = Literal["quickstart", "nano", "tiny", "small", "volo_d1", "volo_d2", "volo_d3", "volo_d4", "volo_d5"]
Count = Annotated[int, Field(ge=1)]
OF_OUTLOOKERS = dict(kernel_size=3, outlook_stride=1, outlook_op="auto")  # what they are without any


class AnyModel(Section):
    """Which model to build. Fields left empty take the variant's values (volo/settings/sizes.py)."""

    called: ClassVar[str]
    """What messages call this form."""
    refusal: ClassVar[str]
    """What a message says of a setting that this form does not have."""
    remedies: ClassVar[dict[str, str]]
    """How to get each of the other forms."""
    default_stride: ClassVar[int] = 1

    form: str
    variant: Variant = "nano"
    """Size of the model: nano (CPU), tiny, small, quickstart's own, or a published one, volo_d1 to volo_d5."""
    patch_size: Count | None = None
    """Height and width of a patch in pixels; images whose size it does not divide are padded."""
    stem_channels: tuple[Count, ...] | None = None
    """Width of each level of overlapping 3x3 convolutions before the patch projection; each level halves the image."""
    stem_depth: Count | None = None
    """Convolutions in each level of the stem."""
    mlp_ratio: Annotated[float, Field(gt=0)] | None = None
    """Ratio of the MLPs' hidden width to the embedding width."""
    kernel_size: Count = 3
    """Height and width of outlook attention's window; odd."""
    outlook_stride: Count | None = None
    """Stride of outlook attention's windows. Default: 1; 2 in a published model."""
    drop_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout after every projection and in the MLPs."""
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth rate of the last local or global block; earlier blocks have linearly lower rates."""
    outlook_op: Literal["auto", "reference", "dense", "cpu", "fused"] = "auto"
    """Implementation of outlook attention; auto chooses by device, dtype, map size and stride."""

    @model_validator(mode="before")
    @classmethod
    def _check_form(cls, values: Any) -> Any:
        """A form of None means the variant's own."""
        from volo.settings.model import owner  # not above: the table of forms is made of subclasses of this class

        if not isinstance(values, dict):
            return values
        form = cls.model_fields["form"].default
        _check_has(values.get("variant", cls.model_fields["variant"].default), form)
        for name, value in values.items():
            if (other := owner(name)) not in (None, form):
                raise ValueError(
                    f"{name} {cls.refusal}, got {name}={brief(value)}; {cls.remedies[other]}, or leave it out"
                )
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
        num_levels = len(full.stem_channels or ())
        if full.patch_size % 2**num_levels:
            raise ValueError(
                "patch_size must be divisible by 2 for every level of the stem, got "
                f"patch_size={full.patch_size}, {num_levels} stem_channels; set --patch-size to a "
                f"multiple of {brief(2**num_levels)}, or give fewer --stem-channels"
            )
        of_variant = VARIANTS[self.variant][self.form].get("stem_depth")  # which resolved settings hold with any stem
        if self.stem_depth not in (None, of_variant) and not num_levels:
            raise ValueError(
                f"stem_depth has no effect without stem_channels, got stem_depth={self.stem_depth}; leave it out"
            )
        if not full.has_outlookers:
            for name, plain in OF_OUTLOOKERS.items():
                if (value := getattr(full, name)) != plain:
                    raise ValueError(f"{name} has no effect without a local block, got {name}={value}; leave it out")
        return self

    @property
    def suffix(self) -> str:
        """What a run's default name adds to the variant's."""
        return ""

    def resolved(self) -> "ResolvedModel":
        raise NotImplementedError

    def _of_variant(self, kind: type[Resolved], **derived: Any) -> Resolved:
        """As `filled`, with the variant's own values too."""
        own = VARIANTS[self.variant][self.form] | {"outlook_stride": self.default_stride}
        return self.filled(kind, **own, **derived)


def _check_has(variant: Any, form: str) -> None:
    """Raises ValueError if the size of this name has no such form."""
    if isinstance(variant, str) and variant in VARIANTS and form not in forms_of(variant):
        others = [name for name in VARIANTS if form in forms_of(name)]
        raise ValueError(
            f"the form must be one that {variant} has ({' or '.join(forms_of(variant))}), got {form}; choose --model "
            f"{', '.join(others)}, or leave --hierarchical and form out"
        )
