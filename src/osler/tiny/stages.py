"""The stages that make `osler-tiny` from random weights. Their order is the point: see `recipe`.

Pictures and letters pull the language model apart when one optimiser sums their losses, so drills and picture batches take turns, each
with its own Adam state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from osler.tiny.drills import DrillSource, Mix, draw_pictures, drill_bare, drill_chat, drill_facts
from osler.tiny.encoding import Encoder
from osler.tiny.fast import NUM_VISUAL_TOKENS, FastPath, Row
from osler.tiny.pool import Pool, list_attributes

ATTRIBUTE_WEIGHTS: Final = (1.0, 0.5, 1.0, 1.0, 1.0)
BETAS: Final = (0.9, 0.98)
CLIP: Final = 1.0
ALIGN_SCALE: Final = 30.0  # inverse temperature of the cosine between pictures and words
WINDOW: Final = 20  # steps over which a drill's accuracy is judged
PATIENCE: Final = 3

Advance = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What every stage works on."""

    path: FastPath
    pool: Pool
    encoder: Encoder
    drills: DrillSource
    idle: Tensor  # tokens whose embeddings stand still
    rng: np.random.Generator
    advance: Advance  # called with a short status after each step


def _adam(parameters: Any, rate: float, decay: float = 0.0) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, rate, betas=BETAS, weight_decay=decay)


def _step(shop: Workshop, optimiser: torch.optim.AdamW, loss: Tensor, rate: float) -> None:
    """One update at `rate`.

    The embeddings of idle tokens stand still: see `renew_idle`.
    """
    shop.path.model.zero_grad()
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    gradient = shop.path.language.embed_tokens.weight.grad
    if gradient is not None:
        gradient[shop.idle] = 0.0
    nn.utils.clip_grad_norm_([parameter for group in optimiser.param_groups for parameter in group["params"]], CLIP)
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()


def ramp(step: int, steps: int, *, warm: int, hold: float = 0.5, floor: float = 0.05) -> float:
    """The factor of the learning rate: up over `warm` steps, constant up to the share `hold` of all steps, then down to `floor`."""
    down = 1.0 if step <= hold * steps else max(floor, (steps - step) / max(1.0, (1 - hold) * steps))
    return min(1.0, (step + 1) / warm) * down


def _labels(pool: Pool) -> tuple[list[list[str]], list[Tensor]]:
    """For each attribute the names it takes, and the index of each picture's."""
    table = [list_attributes(findings) for findings in pool.findings]
    names = [sorted({row[column] for row in table}) for column in range(len(table[0]))]
    return names, [torch.tensor([names[column].index(row[column]) for row in table]) for column in range(len(table[0]))]


class Alignment:
    """How far a picture's visual tokens, averaged, point at the words for what it shows."""

    def __init__(self, shop: Workshop) -> None:
        self._path = shop.path
        names, self._truth = _labels(shop.pool)
        self._words = [torch.tensor([shop.encoder.encode(name)[0] for name in known]) for known in names]

    def loss(self, visual: Tensor, pictures: Tensor) -> Tensor:
        """Cross-entropy within each attribute's words, summed with ATTRIBUTE_WEIGHTS; `visual` is (I, V, D)."""
        width = visual.shape[-1]
        mean = F.rms_norm(visual, (width,)).mean(1)
        total = torch.zeros(())
        for weight, words, truth in zip(ATTRIBUTE_WEIGHTS, self._words, self._truth, strict=True):
            table = F.normalize(self._path.language.embed_tokens.weight[words].detach(), dim=-1)
            total = total + weight * F.cross_entropy(mean @ table.T * (ALIGN_SCALE / width**0.5), truth[pictures])
        return total


def train_tower(shop: Workshop, *, steps: int, seed: int, batch: int = 32, rate: float = 2e-3) -> None:
    """Stage 1: the visual tower alone, under classifiers that are thrown away."""
    names, truth = _labels(shop.pool)
    width = shop.path.language.config.hidden_size
    torch.manual_seed(seed)
    trunk = nn.Sequential(nn.Linear(NUM_VISUAL_TOKENS * width, 2 * width), nn.GELU())
    heads = nn.ModuleList(nn.Linear(2 * width, len(known)) for known in names)
    optimiser = _adam([*shop.path.visual.parameters(), *trunk.parameters(), *heads.parameters()], rate, 0.01)
    for step in range(steps):
        picked = torch.from_numpy(shop.rng.integers(0, len(shop.pool.patches), batch))
        features = trunk(shop.path.see(shop.pool.patches[picked]).flatten(1))
        losses = [
            weight * F.cross_entropy(head(features), known[picked])
            for weight, head, known in zip(ATTRIBUTE_WEIGHTS, heads, truth, strict=True)
        ]
        loss = torch.stack(losses).sum()
        _step(shop, optimiser, loss, rate * ramp(step, steps, warm=50, hold=0.1, floor=0.03))
        shop.advance(f"tower {loss.item():.2f}")


def align_tower(shop: Workshop, *, steps: int, batch: int = 32, rate: float = 1.5e-3) -> None:
    """Stage 2: the tower's tokens are turned towards the (still random) embeddings of the words for what they show."""
    alignment = Alignment(shop)
    optimiser = _adam(shop.path.visual.parameters(), rate, 0.01)
    for step in range(steps):
        picked = torch.from_numpy(shop.rng.integers(0, len(shop.pool.patches), batch))
        loss = alignment.loss(shop.path.see(shop.pool.patches[picked]), picked)
        _step(shop, optimiser, loss, rate * ramp(step, steps, warm=50, hold=0.1, floor=0.1))
        shop.advance(f"align {loss.item():.2f}")


@torch.no_grad()
def renew_idle(shop: Workshop, initial: Tensor, idle: Tensor) -> Workshop:
    """Give idle tokens their initial embeddings (V, D) back, and keep them there in all later stages.

    As wrong answers to every question they are all pushed the same way, until they are one vector (cosine .92 after 700 steps) that can
    neither be told apart nor looked up, and letters do not form.
    """
    shop.path.language.embed_tokens.weight[idle] = initial[idle]
    return replace(shop, idle=idle)


class PictureStep:
    """Updates on questions about pictures, with an Adam state of their own."""

    def __init__(self, shop: Workshop, *, align: float = 0.25, word: float = 0.75) -> None:
        self._shop, self._align, self._word = shop, align, word
        self._alignment = Alignment(shop)
        self._optimiser = _adam(shop.path.model.parameters(), 0.0)

    def __call__(self, mix: Mix, size: int, rate: float) -> float | None:
        """Train on `size` pictures; returns the share of right letters."""
        shop = self._shop
        batch = draw_pictures(shop.pool, shop.encoder, shop.rng, size, mix)
        pictures = torch.tensor(batch.pictures)
        visual = shop.path.see(shop.pool.patches[pictures])
        losses = shop.path.losses(batch.rows, visual[batch.owners])
        loss = losses.text + self._word * losses.word + self._align * self._alignment.loss(visual, pictures)
        _step(shop, self._optimiser, loss, rate)
        return losses.letters


class TextStep:
    """Updates of the language model on text, with an Adam state of their own."""

    def __init__(self, shop: Workshop, *, word: float = 0.5) -> None:
        self._shop, self._word = shop, word
        self._optimiser = _adam(shop.path.language.parameters(), 0.0)

    def __call__(self, batches: Sequence[list[Row]], rate: float) -> list[float]:
        """Train on the sum of the batches' losses; returns each batch's share of right letters."""
        results = [self._shop.path.losses(rows) for rows in batches]
        _step(self._shop, self._optimiser, torch.stack([result.text + self._word * result.word for result in results]).sum(), rate)
        return [result.letters or 0.0 for result in results]


def read_pictures(shop: Workshop, mix: Mix, *, steps: int, size: int = 16, rate: float = 1e-3) -> None:
    """Stage 3: fresh language layers learn to say what pictures show, before any letter."""
    pictures = PictureStep(shop)
    for step in range(steps):
        letters = pictures(mix, size, rate * ramp(step, steps, warm=50, hold=1.0))
        shop.advance(f"read letters {letters or 0:.2f}")


def learn_letters(shop: Workshop, mix: Mix, *, steps: int, tagged: bool, stop: float, enough: float, rate: float = 2e-3) -> float:
    """Stages 4 and 5: bare letter drills with a picture batch after every third.

    They end when `stop` of the letters are right, or after `steps` steps if `enough` are: with some seeds letters form late, so up to
    PATIENCE times `steps` are taken.
    """
    text, pictures = TextStep(shop), PictureStep(shop)
    recent: deque[float] = deque(maxlen=WINDOW)
    for step in range(PATIENCE * steps):
        recent += text([drill_bare(shop.drills, shop.rng, 64, tagged=tagged)], rate * min(1.0, (step + 1) / 100))
        if step % 3 == 2:
            pictures(mix, 12, 5e-4)
        shop.advance(f"letters {np.mean(recent):.2f}")
        if np.mean(recent) >= (enough if step + 1 >= steps else stop) and step > 2 * WINDOW:
            break
    return float(np.mean(recent)) if recent else 0.0


def learn_prompts(
    shop: Workshop,
    mix: Mix,
    *,
    steps: int,
    strategies: dict[str, float],
    enough: float,
    pure: float = 0.6,
    rate: float = 1e-3,
    picture_rate: float = 7e-4,
) -> float:
    """Stage 6: reasoned answers to the real prompt, as drills alone until `pure` of the letters are right, then in turn with pictures.

    Takes `steps` steps, and up to PATIENCE times as many until `enough` letters are right.
    """
    text, pictures = TextStep(shop), PictureStep(shop)
    recent: deque[float] = deque(maxlen=WINDOW)
    for step in range(PATIENCE * steps):
        factor = ramp(step, steps, warm=30, hold=0.6, floor=0.2)
        recent += text([drill_chat(shop.drills, shop.rng, 24, strategies, bare=0.35)], rate * factor)
        level = float(np.mean(recent)) if len(recent) == WINDOW else 0.0
        if level >= 0.8 or (level >= pure and step % 2 == 1):
            pictures(mix, 16, picture_rate * factor)
        shop.advance(f"prompts {np.mean(recent):.2f}")
        if step + 1 >= steps and level >= enough:
            break
    return float(np.mean(recent)) if recent else 0.0


def learn_strategies(
    shop: Workshop,
    mix: Mix,
    *,
    steps: int,
    chat: dict[str, float],
    facts: dict[str, float],
    rate: float = 1e-3,
    picture_rate: float = 7e-4,
) -> tuple[float, float]:
    """Stages 7 to 9: answers before or without reasoning, in turn with pictures; the middle layer is taught the answer's word."""
    text, pictures = TextStep(shop), PictureStep(shop)
    recent: deque[list[float]] = deque(maxlen=WINDOW)
    for step in range(steps):
        factor = ramp(step, steps, warm=30, hold=0.5)
        rows = [drill_chat(shop.drills, shop.rng, 10, chat, bare=0.2), drill_facts(shop.drills, shop.rng, 16, facts)]
        recent.append(text(rows, rate * factor))
        letters = pictures(mix, 16, picture_rate * factor)
        reasoned, stated = np.mean(recent, 0)
        shop.advance(f"strategies drill {reasoned:.2f} fact {stated:.2f} picture {letters or 0:.2f}")
    return (float(reasoned), float(stated)) if recent else (0.0, 0.0)
