"""What every section of the settings is."""

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo

from volo.settings.paths import check_name, check_path

Resolved = TypeVar("Resolved", bound="Section")


class Section(BaseModel):
    """Frozen once checked, without unknown keys.

    A field that is None takes its value from elsewhere, as its description says. `resolved()` fills in those values and
    returns a subclass in which they are never None.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    def filled(self, kind: type[Resolved], **derived: Any) -> Resolved:
        """The same values as a `kind` of this section, with those of `derived` for fields that are None."""
        values = dict(self)
        open_fields = {name: value for name, value in derived.items() if values[name] is None}
        return kind.model_construct(self.model_fields_set | open_fields.keys(), **values | open_fields)


def _path_of(text: str, info: ValidationInfo) -> str:
    return check_path(text, info.field_name or "path")


def _name_of(text: str, info: ValidationInfo) -> str:
    return check_name(text, info.field_name or "name")


CHECKED = AfterValidator(_path_of)
PathText = Annotated[str, CHECKED]
NameText = Annotated[str, AfterValidator(_name_of)]
