"""The teacher's section of the settings."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from volo.errors import cut
from volo.settings.section import PlaceText, Section


class TeachingSettings(Section):
    """What a trained model teaches in addition to the labels. These settings have no effect without --teacher."""

    teacher: PlaceText | None = None
    """A model of this project with the same classes: a run folder, a checkpoint or a model file."""
    distillation: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of the teacher's class probabilities; the labels get the rest."""
    token_labels: bool = False
    """Published models only: the auxiliary head learns the teacher's classes of each patch."""
    token_label_weight: Annotated[float, Field(gt=0)] = 0.5
    """Weight of the patches' loss; that of the labels has weight 1."""
    mix_token: bool = False
    """MixToken, only with token_labels: exchange a box of patches between two images."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.teacher and not (self.distillation or self.token_labels):
            raise ValueError(
                f"teacher has no effect without distillation or token_labels, got teacher={cut(self.teacher)}; set "
                "--distillation 0.5, or --token-labels with a published model"
            )
        if not self.teacher and (self.distillation or self.token_labels):
            raise ValueError(
                f"distillation and token_labels need a teacher, got distillation={self.distillation}, "
                f"token_labels={self.token_labels}; name one with --teacher"
            )
        default = type(self).model_fields["token_label_weight"].default
        if not self.token_labels and (self.mix_token or self.token_label_weight != default):
            name = "mix_token" if self.mix_token else "token_label_weight"
            raise ValueError(
                f"{name} has no effect without token_labels, got {name}={getattr(self, name)}; leave it out, or set "
                "--token-labels, with a --teacher and a published model"
            )
        return self
