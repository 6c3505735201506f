"""What a checkpoint keeps of its validation, checked before anything is made of it."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from nanocnn.evaluation.calibration import HIGHEST, LOWEST

Fraction = Annotated[float, Field(ge=0, le=1)]
Three = Annotated[list[float], Field(min_length=3, max_length=3)]


class Contents(BaseModel):
    """Values of exactly these types; later versions may add keys."""

    model_config = ConfigDict(
        defer_build=True,
        strict=True,
        extra="allow",
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
    )


class Brightness(Contents):
    """See fit_brightness."""

    mean: Three
    deviation: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]
    low: Three
    high: Three
    one_sided: bool


class Gaussians(Contents):
    means: Tensor
    whitening: Tensor

    @model_validator(mode="after")
    def agree(self) -> Self:
        means, whitening = self.means, self.whitening
        if means.ndim != 2 or whitening.shape != (means.shape[1],) * 2 or not len(means):
            raise ValueError("should have means (classes, D) and whitening (D, D)")
        if means.isnan().any() or not whitening.isfinite().all():
            raise ValueError("should have numbers as means and whitening")
        return self


class Unlike(Contents):
    """See fit_unlike."""

    brightness: Brightness
    gaussians: Annotated[list[Gaussians], Field(max_length=2)]
    threshold: float = 0.0


class Validation(Contents):
    loss: float | None
    accuracy: Fraction | None
    temperature: Annotated[float, Field(ge=LOWEST, le=HIGHEST)] | None = None
    unlike: Unlike | None = None
