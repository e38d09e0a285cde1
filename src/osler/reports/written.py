"""What a policy wrote during training, as cards with their images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from osler.reports.examples import FindById, encode_image
from osler.reports.load_runs import Run
from osler.training.kept_completions import KeptCompletion

MAX_CARDS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenCard:
    """A completion with its image as a data URI."""

    kept: KeptCompletion
    image: str | None


def build_written(run: Run, find_image: FindById) -> list[WrittenCard]:
    """The latest MAX_CARDS completions of a run, the latest step first."""
    latest = sorted(run.completions, key=lambda kept: -kept.step)[:MAX_CARDS]
    return [WrittenCard(kept=kept, image=encode_image(find_image(kept.sample_id))) for kept in latest]
