"""Which slices of a study a prompt shows, and as what: the rules of `[data.study]`.

even          the middles of equal parts of the series
around        those nearest to the position that the question gives; with a label, spread evenly over the slices that hold it, and where
              these are fewer, all of them and those nearest to them
information   in each of the equal parts the slice with the most information: the highest Shannon entropy of its 256 grey tones
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from osler.config import MAX_SHOWN_SLICES, Layout, StudyConfig
from osler.errors import DataError
from osler.images.clip import Clip
from osler.images.geometry import Series, measure_steps
from osler.images.montage import Montage, ReducedImage
from osler.images.study import PickedSeries, Study, pick_series, slices_with_label, spread
from osler.images.values import find_hidden_values
from osler.types import ImageSource

if TYPE_CHECKING:
    from PIL.Image import Image

_KEPT: Final = 8192  # studies whose choice is kept, because a training reads its questions several times


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownStudy:
    """What a prompt shows of a study."""

    pictures: tuple[ImageSource, ...]  # of the prompt: the slices, or one montage or clip of them
    slices: tuple[ImageSource, ...]  # these one by one, as their files give them
    indices: tuple[int, ...]  # of the slices in their series, from 0
    positions: tuple[float, ...] | None  # of these slices along the normal in millimetres; None where the files do not say it
    num_slices: int  # of the series
    plane: str | None
    notes: tuple[str, ...]  # about the series, in words

    @property
    def slice_numbers(self) -> tuple[int, ...]:
        """The slices in their series as people and programs are told of them: counted from 1."""
        return tuple(index + 1 for index in self.indices)


def choose_pictures(study: Study, config: StudyConfig, indices: tuple[int, ...] | None = None) -> ShownStudy:
    """The pictures of a study that a prompt shows. A window and a plane of the study itself go before those of `config`.

    `indices` are the slices to show, from 0, in place of the choice of `config`; they are shown in the order of the series.
    Raises DataError, one line that names the study, where it cannot be read or does not give what the rule needs, and for a slice that it
    does not have or more slices than fit into the limit of tokens.
    """
    return _choose_pictures(study, config, indices, study.file_state())


@lru_cache(maxsize=_KEPT)
def _choose_pictures(study: Study, config: StudyConfig, asked: tuple[int, ...] | None, _state: int) -> ShownStudy:
    study = replace(study, plane=study.plane or config.plane)
    picked = pick_series(study, config.window)
    series = picked.series
    is_one = len(series.slices) == 1
    if asked is not None:
        indices = _check_indices(study, len(series.slices), asked, config)
    else:
        indices = (0,) if is_one else _choose(study, picked, config)
    slices = tuple(series.slices[index] for index in indices)
    return ShownStudy(
        pictures=slices if is_one else _arrange(slices, config),
        slices=slices,
        indices=indices,
        positions=None if series.positions is None else tuple(series.positions[index] for index in indices),
        num_slices=len(series.slices),
        plane=series.plane,
        notes=picked.notes,
    )


def find_hidden(study: Study, shown: ShownStudy) -> tuple[str, ...]:
    """What the shown slices of a study hide, in words that name no file: see `values.find_hidden_values`. Decodes them once."""
    return _find_hidden(shown.slices, study.file_state())


@lru_cache(maxsize=256)
def _find_hidden(slices: tuple[ImageSource, ...], _state: int) -> tuple[str, ...]:
    return find_hidden_values(slices)


def _choose(study: Study, picked: PickedSeries, config: StudyConfig) -> tuple[int, ...]:
    number, count = len(picked.series.slices), count_slices(config)
    if config.choice == "even":
        return spread(number, count)
    if config.choice == "around":
        return _around(study, picked, count)
    slices = picked.series.slices
    parts = [(part * number // count, (part + 1) * number // count) for part in range(count)]
    return tuple(max(range(begin, end), key=lambda index: measure_entropy(slices[index].load())) for begin, end in parts if begin < end)


def _check_indices(study: Study, number: int, asked: tuple[int, ...], config: StudyConfig) -> tuple[int, ...]:
    """The slices that are asked for one by one, in the order of the series."""
    indices = tuple(sorted(set(asked)))
    if not indices or not 0 <= indices[0] <= indices[-1] < number:
        raise DataError(
            f"study {study.path!r} has {number} slices, numbered 1 to {number} (as indices 0 to {number - 1}): "
            "ask for at least one of them, and for no other"
        )
    if len(indices) > (most := count_slices(config.model_copy(update={"slices": min(number, MAX_SHOWN_SLICES)}))):
        raise DataError(f"study {study.path!r}: {len(indices)} slices are more than a prompt takes: ask for at most {most}")
    return indices


def count_slices(config: StudyConfig) -> int:
    """As many slices as are asked for, or as fit into the limit of tokens when each has as few as a processor gives."""
    if not config.max_tokens or config.layout == "montage":
        return config.slices
    shares = max(1, config.max_tokens // config.min_tokens)
    return min(config.slices, shares * (2 if config.layout == "video" else 1))


def _around(study: Study, picked: PickedSeries, count: int) -> tuple[int, ...]:
    """The indices of the slices about which a question is, in order."""
    series = picked.series
    if series.positions is None:
        raise DataError(f'study {study.path!r} has no positions for choice = "around": use "even"')
    if picked.is_cut:
        raise DataError(f"study {study.path!r} is cut in another plane than its slices, where nothing is looked for: leave the plane out")
    if study.label is not None:
        inside = slices_with_label(study, series)
        if len(inside) >= count:
            return tuple(inside[place] for place in spread(len(inside), count))
        centres = [series.positions[index] for index in inside]
    elif study.position is not None:
        centres = [_inside(study, series, study.position)]
    else:
        raise DataError(f'study {study.path!r} gives no position and no label for choice = "around": use "even"')
    positions = series.positions
    nearest = sorted(range(len(positions)), key=lambda index: min(abs(positions[index] - centre) for centre in centres))
    return tuple(sorted(nearest[:count]))


def _inside(study: Study, series: Series, position: float) -> float:
    """The position. Raises DataError where it lies more than a slice outside of the series."""
    assert series.positions is not None
    first, last = series.positions[0], series.positions[-1]
    step = measure_steps(list(series.positions)).spacing or 0.0
    if not first - step - 0.01 <= position <= last + step + 0.01:
        raise DataError(f"study {study.path!r} has slices from {first:.1f} to {last:.1f} mm, but the position {position:g}: check it")
    return position


def _arrange(slices: Sequence[ImageSource], config: StudyConfig) -> tuple[ImageSource, ...]:
    """The slices as pictures within the limit of tokens."""
    pictures = lay_out(slices, "montage") if config.layout == "montage" else tuple(slices)
    if config.max_tokens:
        share = max(1, config.max_tokens // (-(-len(pictures) // 2) if config.layout == "video" else len(pictures)))
        pictures = tuple(ReducedImage(source=picture, max_tokens=share, token_side=config.token_side) for picture in pictures)
    return lay_out(pictures, config.layout)


def lay_out(pictures: Sequence[ImageSource], layout: Layout) -> tuple[ImageSource, ...]:
    """The pictures one by one, or one montage or clip of them; a single picture stays itself."""
    if layout == "images" or len(pictures) == 1:
        return tuple(pictures)
    return (Montage(sources=tuple(pictures)) if layout == "montage" else Clip(sources=tuple(pictures)),)


def measure_entropy(picture: Image) -> float:
    """The Shannon entropy of the grey tones of a picture, in bits: 0 for one flat colour, 8 at most."""
    return float(picture.convert("L").entropy())
