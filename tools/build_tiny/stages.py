"""The two stages that make `osler-tiny` from random weights: a tower that sees, then a language model that reads, reasons and answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.build_tiny.drills import DrillSource, draw_pictures, drill_bare, drill_chat, drill_facts
from tools.build_tiny.encoding import Encoder
from tools.build_tiny.fast import NUM_VISUAL_TOKENS, FastPath, Row
from tools.build_tiny.pool import Pool, list_attributes
from tools.build_tiny.scaffold import Scaffold

ATTRIBUTE_WEIGHTS: Final = (1.0, 0.5, 1.0, 1.0, 1.0)
BETAS: Final = (0.9, 0.98)
CLIP: Final = 1.0
ALIGN_SCALE: Final = 30.0  # inverse temperature of the cosine between pictures and words
WINDOW: Final = 20  # steps over which the letters of the status are averaged

Advance = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What both stages work on."""

    path: FastPath
    pool: Pool
    encoder: Encoder
    drills: DrillSource
    idle: Tensor  # tokens that no phantom speaks of; their embeddings stand still
    rng: np.random.Generator
    advance: Advance  # called with a short status after each step


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What the language model practises in each step: how many rows of each drill, how many pictures, and in which words."""

    steps: int
    bare: int = 16  # lists of options, and the letter of each option
    chat: int = 8  # the same behind the real prompt and reasoning
    facts: int = 12  # the same where the answer is stated and comes first
    pictures: int = 16
    types: tuple[float, ...]  # the share of each question type, in the order of QuestionType
    strategies: dict[str, float]  # of questions about pictures
    chats: dict[str, float]
    answers: dict[str, float]
    rate: float = 1e-3
    picture_rate: float = 7e-4


def ramp(step: int, steps: int, *, warm: int, hold: float = 0.5, floor: float = 0.05) -> float:
    """The factor of the learning rate: up over `warm` steps, constant up to the share `hold` of all steps, then down to `floor`."""
    down = 1.0 if step <= hold * steps else max(floor, (steps - step) / max(1.0, (1 - hold) * steps))
    return min(1.0, (step + 1) / warm) * down


def train_tower(shop: Workshop, *, steps: int, seed: int, batch: int = 32, rate: float = 2e-3) -> None:
    """Stage 1: the visual tower under classifiers that are thrown away, its tokens turned towards the words for what they show."""
    names, truth = _labels(shop.pool)
    width = shop.path.language.config.hidden_size
    torch.manual_seed(seed)
    trunk = nn.Sequential(nn.Linear(NUM_VISUAL_TOKENS * width, 2 * width), nn.GELU(), nn.Dropout(0.1))
    heads = nn.ModuleList(nn.Linear(2 * width, len(known)) for known in names)
    words = [torch.tensor([shop.encoder.encode(name)[0] for name in known]) for known in names]
    optimiser = _adam([*shop.path.visual.parameters(), *trunk.parameters(), *heads.parameters()], rate, 0.05)
    for step in range(steps):
        picked = torch.from_numpy(shop.rng.integers(0, len(shop.pool.patches), batch))
        visual = shop.path.see(shop.pool.patches[picked])
        features = trunk(visual.flatten(1))
        pointing = _point(visual, shop.path.language.embed_tokens.weight.detach())
        losses = [
            weight * (F.cross_entropy(head(features), known[picked]) + F.cross_entropy(pointing[:, named], known[picked]))
            for weight, head, named, known in zip(ATTRIBUTE_WEIGHTS, heads, words, truth, strict=True)
        ]
        loss = torch.stack(losses).sum()
        _step(shop, optimiser, loss, rate * ramp(step, steps, warm=50, hold=0.1, floor=0.03))
        shop.advance(f"tower {loss.item():.2f}")


def _labels(pool: Pool) -> tuple[list[list[str]], list[Tensor]]:
    """For each attribute the names it takes, and the index of each picture's."""
    table = [list_attributes(findings) for findings in pool.findings]
    names = [sorted({row[column] for row in table}) for column in range(len(table[0]))]
    return names, [torch.tensor([names[column].index(row[column]) for row in table]) for column in range(len(table[0]))]


def _point(visual: Tensor, embeddings: Tensor) -> Tensor:
    """How far each picture's visual tokens (I, V, D), averaged, point at each word (W, D): scaled cosines (I, W)."""
    width = visual.shape[-1]
    mean = F.rms_norm(visual, (width,)).mean(1)
    pointing: Tensor = mean @ F.normalize(embeddings, dim=-1).T * (ALIGN_SCALE / width**0.5)
    return pointing


@torch.no_grad()
def look(shop: Workshop, *, batch: int = 64) -> Tensor:
    """What the finished tower sees in every picture of the pool: visual tokens (I, V, D)."""
    return torch.cat([shop.path.see(patches) for patches in torch.split(shop.pool.patches, batch)])


def train_language(shop: Workshop, lesson: Lesson, visual: Tensor) -> None:
    """Stage 2: fresh language layers on what the tower sees.

    Drills and pictures take turns, each with an Adam state of its own: in one sum of losses they pull the language model apart.
    """
    scaffold = Scaffold(shop.path)
    parameters = [*shop.path.language.parameters(), *scaffold.parameters()]
    reading, seeing = _adam(parameters, 0.0), _adam(parameters, 0.0)
    recent: deque[tuple[float, float]] = deque(maxlen=WINDOW)

    def update(optimiser: torch.optim.AdamW, batches: list[list[Row]], seen: Tensor | None, rate: float) -> float:
        passes = [shop.path.run(rows, seen) for rows in batches]
        losses = [done.text + scaffold.loss(rows, done.states) for rows, done in zip(batches, passes, strict=True)]
        _step(shop, optimiser, torch.stack(losses).sum(), rate)
        return float(np.mean([done.letters or 0.0 for done in passes]))

    for step in range(lesson.steps):
        factor = ramp(step, lesson.steps, warm=30)
        drilled = update(reading, _draw_drills(shop, lesson), None, lesson.rate * factor)
        batch = draw_pictures(shop.pool, shop.encoder, shop.rng, lesson.pictures, lesson.strategies, lesson.types)
        seen = visual[torch.tensor(batch.pictures)][batch.owners]
        recent.append((drilled, update(seeing, [batch.rows], seen, lesson.picture_rate * factor)))
        means = np.mean(recent, 0)
        shop.advance(f"letters {means[0]:.2f} pictures {means[1]:.2f}")


def _draw_drills(shop: Workshop, lesson: Lesson) -> list[list[Row]]:
    """One step's text, a batch of each kind: they differ in length, and weigh the same."""
    source, rng = shop.drills, shop.rng
    return [
        drill_bare(source, rng, lesson.bare, tagged=bool(rng.random() < 0.5)),
        drill_chat(source, rng, lesson.chat, lesson.chats, bare=0.2),
        drill_facts(source, rng, lesson.facts, lesson.answers),
    ]


def _adam(parameters: Any, rate: float, decay: float = 0.0) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, rate, betas=BETAS, weight_decay=decay)


def _step(shop: Workshop, optimiser: torch.optim.AdamW, loss: Tensor, rate: float) -> None:
    """One update at `rate`. The embeddings of idle tokens stand still.

    As wrong answers to every question they would all be pushed the same way, until they were one vector that can neither be told apart nor
    looked up.
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
