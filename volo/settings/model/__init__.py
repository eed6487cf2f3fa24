"""The model's section of the settings: flat, a pyramid or a published model, a tagged union, so that no mixture can be
written down.

`form` is the tag; without it the variant decides: flat for the project's own, published for volo_d1 to volo_d5. Fields
that are None are the variant's own (volo/settings/sizes.py).
"""

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from volo.errors import brief
from volo.settings.model.base import AnyModel
from volo.settings.model.flat import FlatModel, ResolvedFlat
from volo.settings.model.published import PublishedModel, ResolvedPublished
from volo.settings.model.pyramid import PyramidModel, ResolvedPyramid
from volo.settings.sizes import VARIANTS, forms_of

FORMS: dict[str, type[FlatModel] | type[PyramidModel] | type[PublishedModel]] = {
    "flat": FlatModel,
    "pyramid": PyramidModel,
    "published": PublishedModel,
}


def _form_of(values: Any) -> str:
    if isinstance(values, dict):
        form, variant = values.get("form"), values.get("variant")
        if form is not None:
            return form if isinstance(form, str) else brief(form)
        return forms_of(variant)[0] if isinstance(variant, str) and variant in VARIANTS else "flat"
    return getattr(values, "form", "flat")


ModelSettings = Annotated[
    Annotated[FlatModel, Tag("flat")]
    | Annotated[PyramidModel, Tag("pyramid")]
    | Annotated[PublishedModel, Tag("published")],
    Discriminator(_form_of),
]


ResolvedModel = ResolvedFlat | ResolvedPyramid | ResolvedPublished


def own_fields(form: str) -> list[str]:
    """The settings that only this form has, without the tag."""
    return [name for name in FORMS[form].model_fields if name not in AnyModel.model_fields]


def for_form_of(above: dict[str, Any], below: dict[str, Any]) -> dict[str, Any]:
    """`below` without the settings that only its form has, if `above` sets another form."""
    before, after = _form_of(below), _form_of({**below, **above})
    if before == after or before not in FORMS:
        return below
    return {name: value for name, value in below.items() if name not in own_fields(before)}


def owner(name: Any) -> str | None:
    """The only form that has this setting; None if several do."""
    return next((form for form in FORMS if name in own_fields(form)), None)
