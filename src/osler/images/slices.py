"""Which slices of a study a prompt shows, and as what: the rules of `[data.study]`.

even          the middles of equal parts of the series
around        those nearest to the position that the question gives; with a label, spread evenly over the slices that hold it
information   in each of the equal parts the slice with the most information: the highest Shannon entropy of its 256 grey tones
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from osler.config import StudyConfig
from osler.errors import DataError
from osler.images.clip import Clip
from osler.images.files import ImageFile
from osler.images.geometry import Series
from osler.images.labels import read_label
from osler.images.montage import Montage, ReducedImage
from osler.images.study import Study, pick_series, spread
from osler.images.windows import Preset, parse_windows
from osler.types import ImageSource

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownStudy:
    """What a prompt shows of a study."""

    pictures: tuple[ImageSource, ...]  # of the prompt: the slices, or one montage or clip of them
    series: Series
    indices: tuple[int, ...]  # of the slices in the series, from 0
    notes: tuple[str, ...]  # about the series, in words


@lru_cache(maxsize=1 << 16)  # a training reads its questions several times
def choose_pictures(study: Study, config: StudyConfig) -> ShownStudy:
    """The pictures of a study that a prompt shows. A window and a plane of the study itself go before those of `config`.

    Raises DataError, one line that names the study, where it cannot be read or does not give what the rule needs.
    """
    study = replace(study, plane=study.plane or config.plane)
    picked = pick_series(study)
    if study.window is None and config.window is not None and _has_window(picked.series, config.window):
        study = replace(study, window=config.window)
        picked = pick_series(study)
    if len(picked.series.slices) == 1:  # a picture, whatever its window
        return ShownStudy(pictures=picked.series.slices, series=picked.series, indices=(0,), notes=picked.notes)
    indices = _choose(study, picked.series, config)
    slices = tuple(picked.series.slices[index] for index in indices)
    return ShownStudy(pictures=_arrange(slices, config), series=picked.series, indices=indices, notes=picked.notes)


def _has_window(series: Series, window: str) -> bool:
    """Whether the window of `config` is for such a series: not for pictures without values, and a preset only for what may be a CT."""
    has_values = all(not isinstance(source, ImageFile) for source in series.slices)
    is_for_ct = any(isinstance(choice, Preset) for choice in parse_windows(window))
    return has_values and (series.modality in ("CT", None) or not is_for_ct)


def _choose(study: Study, series: Series, config: StudyConfig) -> tuple[int, ...]:
    number = len(series.slices)
    if config.choice == "even":
        return spread(number, config.slices)
    if config.choice == "around":
        return _around(study, series, config.slices)
    parts = [(part * number // config.slices, (part + 1) * number // config.slices) for part in range(config.slices)]
    return tuple(
        max(range(begin, end), key=lambda index: measure_entropy(series.slices[index].load())) for begin, end in parts if begin < end
    )


def _around(study: Study, series: Series, count: int) -> tuple[int, ...]:
    """The indices of the slices about which a question is, in order."""
    if series.positions is None:
        raise DataError(f'study {study.path!r} has no positions for choice = "around": use "even"')
    positions = series.positions
    if study.label is not None:
        inside = _inside_label(study, study.label, series)
        if len(inside) >= count:
            return tuple(inside[place] for place in spread(len(inside), count))
        centre = (positions[inside[0]] + positions[inside[-1]]) / 2
    elif study.position is not None:
        centre = study.position
    else:
        raise DataError(f'study {study.path!r} gives no position and no label for choice = "around": use "even"')
    nearest = sorted(range(len(positions)), key=lambda index: abs(positions[index] - centre))
    return tuple(sorted(nearest[:count]))


def _inside_label(study: Study, label: str, series: Series) -> tuple[int, ...]:
    """The indices of the slices that hold the label, in order."""
    if study.plane is not None and study.plane != pick_series(replace(study, plane=None)).series.plane:
        raise DataError(f"study {study.path!r} is cut in another plane than its slices, where no label is looked for: leave the plane out")
    inside = read_label(study.root, label).slices_of(series, study.label_value)
    if not inside:
        raise DataError(f"study {study.path!r} has no slice with its label {label!r}: check the label and its value")
    return inside


def _arrange(slices: Sequence[ImageSource], config: StudyConfig) -> tuple[ImageSource, ...]:
    """The slices as pictures within the limit of tokens."""
    pictures: tuple[ImageSource, ...] = (Montage(sources=tuple(slices)),) if config.layout == "montage" else tuple(slices)
    is_clip = config.layout == "video"
    if config.max_tokens:
        share = max(1, config.max_tokens // (-(-len(pictures) // 2) if is_clip else len(pictures)))
        pictures = tuple(ReducedImage(source=picture, max_tokens=share, token_side=config.token_side) for picture in pictures)
    return (Clip(sources=pictures),) if is_clip else pictures


def measure_entropy(picture: Image) -> float:
    """The Shannon entropy of the grey tones of a picture, in bits: 0 for one flat colour, 8 at most."""
    return float(picture.convert("L").entropy())
