"""Whether anything shows that a policy used the image: its image gains, its answers with other images, and what its training logged.

The sentences of pages and cards about it come from here, so that one probe is not denied beside another that shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from osler.evaluation.reliance import follows
from osler.metrics import Estimate, ImageGain, points
from osler.reports.headline import METHODS, join
from osler.reports.load_runs import Evaluation, Run
from osler.reports.looking import LookRow
from osler.reports.tables import PolicyTable, group_title


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageUse:
    """What the probes of a page say of one policy."""

    title: str
    gains: tuple[str, ...]  # titles of the modalities in which the interval of the image gain lies above 0
    has_gain: bool  # whether an image gain was measured
    changed_by: tuple[str, ...]  # alterations of the image that its answers follow: ("blank", "swapped, same modality")
    follows: bool | None  # whether its answers follow the image; None where that is not clear or was not asked
    is_asked: bool  # whether it was asked with other images
    watched: Estimate | None  # the last image gain over blank images that its training logged

    @property
    def is_shown(self) -> bool:
        """Whether a probe shows that the policy used the image. Where its answers stay the same without, an image gain does not."""
        is_watched = self.watched is not None and is_above_zero(self.watched)
        return bool(self.changed_by) or is_watched or (bool(self.gains) and self.follows is not False)

    @property
    def reason(self) -> str:
        """What shows it, or why nothing does, as the end of a sentence."""
        shown = [f"the image gain lies above 0 on {join(self.gains)}"] if self.gains else []
        shown += [f"answers change with other images ({'; '.join(self.changed_by)})"] if self.changed_by else []
        if self.watched is not None and is_above_zero(self.watched):
            shown.append(f"in its training the accuracy lay above that with blank images ({points(self.watched)} points)")
        if self.is_shown:
            return join(shown)
        lacks = ["no image gain lies above 0" if self.has_gain else "without a blind baseline there is no image gain"]
        if self.gains:
            lacks = [f"{shown[0]}, which need not come from the image"]
        if self.follows is False:
            lacks.append("answers stay the same with other images")
        else:
            lacks.append("with other images it is not clear" if self.is_asked else "it was not asked with other images (--ablation)")
        if self.watched is not None:
            lacks.append("nor does the image gain that its training logged")
        return "; ".join(lacks)


def image_uses(
    evaluations: Sequence[Evaluation], gains: PolicyTable[ImageGain] | None, looks: Sequence[LookRow], runs: Sequence[Run] = ()
) -> tuple[ImageUse, ...]:
    """One for each policy that got the images, from the tables of a page about the same evaluations."""
    logged = {run.name: run.gains[-1].gain for run in runs if run.gains}
    altered = {row.title: [image.result for image in row.images] for row in looks}
    titles = {image.result.name: image.title.lower() for row in looks for image in row.images}
    uses = []
    for row in evaluations:
        if row.is_blind or row.is_reader or not (row.records or row.title in altered):
            continue
        images = altered.get(row.title, [])
        uses.append(
            ImageUse(
                title=row.title,
                gains=above_zero(gains, row.title),
                has_gain=gains is not None and any(cell.gain.low is not None for cell in _cells(gains, row.title)),
                changed_by=tuple(titles[one.name] for one in images if follows([one])),
                follows=follows(images),
                is_asked=any(one.same_answer is not None for one in images),
                watched=logged.get(row.run) if row.stage in METHODS else None,
            )
        )
    return tuple(uses)


def describe_uses(uses: Sequence[ImageUse]) -> tuple[str, ...]:
    """A sentence for each reason, with the policies that it is true of."""
    titles: dict[tuple[bool, str], list[str]] = {}
    for use in uses:
        titles.setdefault((use.is_shown, use.reason), []).append(use.title)
    return tuple(
        f"{join(names)} used the image: {reason}." if is_shown else f"Nothing here shows that {join(names)} used the image: {reason}."
        for (is_shown, reason), names in titles.items()
    )


def above_zero(gains: PolicyTable[ImageGain] | None, title: str | None = None) -> tuple[str, ...]:
    """The titles of the columns in which the interval of an image gain lies above 0: that of one policy, or of any."""
    if gains is None:
        return ()
    rows = [row.cells for row in gains.rows if title is None or row.title == title]
    return tuple(group_title(name) for place, name in enumerate(gains.columns) if any(is_above_zero(cells[place].gain) for cells in rows))


def is_above_zero(gain: Estimate) -> bool:
    """Whether the whole interval lies above 0."""
    return gain.low is not None and gain.low > 0


def _cells(gains: PolicyTable[ImageGain], title: str) -> tuple[ImageGain, ...]:
    return next((row.cells for row in gains.rows if row.title == title), ())
