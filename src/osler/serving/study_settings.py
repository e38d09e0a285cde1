"""What a request says of the pictures that a prompt shows of a study: the settings of `[data.study]` that a caller may change."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from osler.config import MAX_SHOWN_SLICES, Layout, StudyConfig
from osler.errors import ConfigError
from osler.images.windows import AUTO, parse_windows
from osler.serving.errors import ApiError
from osler.serving.strict import StrictModel
from osler.taxonomy import Plane

FILE: Final = "file"
"""The name of the window of the files themselves, in requests and replies."""

Index = Annotated[int, Field(ge=0, lt=100_000)]
SliceNumber = Annotated[int, Field(ge=1, le=100_000)]


class StudySettings(StrictModel):
    """Which pictures a prompt shows of an upload or of files. None is what the server is set to."""

    images: tuple[Index, ...] | None = Field(default=None, max_length=64, strict=False)  # of an upload; None: those marked "selected"
    slices: int | None = Field(default=None, ge=1, le=MAX_SHOWN_SLICES)  # of each study, at most
    choice: Literal["even", "information"] | None = None
    slice_numbers: tuple[SliceNumber, ...] | None = Field(default=None, min_length=1, max_length=MAX_SHOWN_SLICES, strict=False)  # from 1
    indices: tuple[Index, ...] | None = Field(default=None, min_length=1, max_length=MAX_SHOWN_SLICES, strict=False)  # the same, from 0
    window: str | None = Field(default=None, max_length=100)  # "file", "auto", "lung", "40/400"
    plane: Plane | None = None
    layout: Layout | None = None

    @model_validator(mode="after")
    def _name_slices_once(self) -> Self:
        if self.slice_numbers is not None and self.indices is not None:
            raise ApiError(400, "slice_numbers and indices exclude each other: send slice_numbers", param="study_settings.indices")
        return self

    @property
    def exact(self) -> tuple[int, ...] | None:
        """Exactly these slices, as indices from 0; None where a rule chooses."""
        return self.indices if self.slice_numbers is None else tuple(number - 1 for number in self.slice_numbers)

    def to_config(self, base: StudyConfig) -> StudyConfig:
        """`base` with what is given here. Raises ConfigError for an unknown window."""
        asked = {name: value for name in ("slices", "choice", "plane", "layout") if (value := getattr(self, name)) is not None}
        if self.window is not None:
            asked["window"] = read_window_name(self.window)
        return base.model_copy(update=asked)


def read_window_name(name: str | None) -> str | None:
    """The window of a request as `StudyConfig` has it: None for that of the files. Raises ConfigError for an unknown one."""
    if name is None or name == FILE:
        return None
    if name != AUTO:
        parse_windows(name)
    if "file:" in name and len(name) > len("file:000"):
        raise ConfigError("a window of the file is asked for by its number: file:1")
    return name
