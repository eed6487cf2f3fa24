"""What every section of the settings is."""

import typing
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from volo.settings.buckets import check_place
from volo.settings.paths import check_name, check_path
from volo.settings.weights import check_weights_text

MAX_INTEGER = 2**63 - 1
Resolved = TypeVar("Resolved", bound="Section")


class Section(BaseModel):
    """Frozen once checked, without unknown keys.

    A field that is None takes its value from elsewhere, as its description says. `resolved()` fills in those values and
    returns a subclass in which they are never None.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _check_switches(cls, value: Any, info: ValidationInfo) -> Any:
        """True and False are no numbers."""
        found = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(one, bool) for one in found):
            assert info.field_name is not None, "this validates fields"
            if bool not in _kinds(cls.model_fields[info.field_name].annotation):
                raise PydanticCustomError("switch", "must not be true or false")
        return value

    @field_validator("*")
    @classmethod
    def _check_size(cls, value: Any) -> Any:
        """What counts and sizes are computed with holds no more."""
        found = value if isinstance(value, tuple) else (value,)
        if any(isinstance(one, int) and abs(one) > MAX_INTEGER for one in found):
            raise PydanticCustomError("size", f"must be at most {MAX_INTEGER}")
        return value

    def filled(self, kind: type[Resolved], **derived: Any) -> Resolved:
        """The same values as a `kind` of this section, with those of `derived` for fields that are None."""
        values = dict(self)
        open_fields = {name: value for name, value in derived.items() if values[name] is None}
        return kind.model_construct(self.model_fields_set | open_fields.keys(), **values | open_fields)


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation names, at any depth."""
    parts = typing.get_args(annotation)
    return {annotation}.union(*map(_kinds, parts)) if parts else {annotation}


def _path_of(text: str, info: ValidationInfo) -> str:
    return check_path(text, info.field_name or "path")


def _place_of(text: str, info: ValidationInfo) -> str:
    return check_place(text, info.field_name or "place")


def _weights_of(text: str, info: ValidationInfo) -> str:
    return check_weights_text(text, info.field_name or "weights")


def _name_of(text: str, info: ValidationInfo) -> str:
    return check_name(text, info.field_name or "name")


CHECKED = AfterValidator(_path_of)
PathText = Annotated[str, CHECKED]
CHECKED_PLACE = AfterValidator(_place_of)
PlaceText = Annotated[str, CHECKED_PLACE]
CHECKED_WEIGHTS = AfterValidator(_weights_of)
WeightsText = Annotated[str, CHECKED_WEIGHTS]
NameText = Annotated[str, AfterValidator(_name_of)]
