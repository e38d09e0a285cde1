"""The model card of a run: what its template shows, and the metadata that the hub reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from osler import metrics
from osler.config import Config, PolicyConfig
from osler.errors import PolicyError
from osler.evaluation.compare import UNIT
from osler.files import digest_file, read_json_lines
from osler.metrics import points
from osler.prompts import Strategy, find_strategy, render
from osler.publishing.author import Author
from osler.publishing.finished import FinishedRun, public_recipe
from osler.publishing.markdown import fill
from osler.publishing.questions import (
    DRAWN,
    Source,
    Tested,
    Trained,
    check_overlap,
    describe_source,
    describe_tested,
    merge_equal,
    read_config,
    read_trained,
)
from osler.publishing.results import Group, Results, group_evaluations, measure
from osler.reports.headline import describe_domain, describe_lead, explain_lead, find_lead
from osler.reports.page import collect_notes
from osler.reports.tables import FEW, gain_table, group_title
from osler.reports.trained import shared_domain
from osler.run_folder import PACKAGES
from osler.types import Sample

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

OWN_LICENCE: Final = "apache-2.0"
"""Of Osler and its packaged policies."""

NOT_STATED: Final = "not stated"
ARCHITECTURES: Final = {"qwen2_vl": "Qwen2-VL", "qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL"}
TASK: Final = "visual-question-answering"
_HIDDEN_NOTES: Final = ("No training metrics", "No records")
"""Beginnings of notes of a report that the card says in its own place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """The exact text that the policy is asked with."""

    strategy: Strategy
    has_open: bool  # whether the run has open questions
    example: str  # an invented question as the model gets it, chat template included; the image stands at <|image_pad|>
    question: str  # the same without the chat template


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What is known of the questions."""

    reader: str
    trained: Trained
    tested: tuple[Tested, ...]  # one for each set of questions that the policy was evaluated on
    sources: tuple[Source, ...]  # the datasets of both, those of the training first
    manifest_sha256: str | None  # of the run's manifest.json
    hashes: Mapping[str, str]  # "train ids" -> SHA-256

    @property
    def is_checked(self) -> bool:
        """Whether tested questions were compared with the trained ones."""
        return all(one.is_checked for one in self.tested)

    @property
    def is_trained_on_drawings(self) -> bool:
        """Whether the training images are drawings made by a program."""
        return set(self.trained.names) <= set(DRAWN)

    @property
    def drawn(self) -> tuple[Tested, ...]:
        """The tested questions about drawings."""
        return tuple(one for one in self.tested if one.is_drawn)


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The result on one dataset, in words."""

    place: str  # "Phantom, split test"
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Everything that the templates of card and checklist show."""

    name: str  # "grpo-think", the last part of the folder or of the hub id
    hub_id: str  # what the example code loads
    finished: FinishedRun
    author: Author
    results: Results
    prompt: Prompt
    data: Data
    headline: tuple[Headline, ...]  # () without an evaluation
    notes: tuple[str, ...]
    domain: str  # "MRI"
    hyperparameters: tuple[tuple[str, str], ...]
    recipe: str  # JSON
    has_adapter: bool

    @property
    def config(self) -> Config:
        """The recipe."""
        return self.finished.config

    @property
    def architecture(self) -> str:
        """ "Qwen2-VL"; the model type of other families."""
        return ARCHITECTURES.get(self.finished.weights.model_type, self.finished.weights.model_type)

    @property
    def base_model(self) -> str | None:
        """The base's id on the hub; None where it has none, or none is known."""
        return self.author.base_model or self.finished.base.hub_id

    @property
    def licence(self) -> str | None:
        """The licence that the author states; Osler's own for what began with a packaged policy."""
        return self.author.license or (OWN_LICENCE if self.finished.base.is_packaged else None)

    @property
    def is_evaluated_as_set(self) -> bool:
        """Whether generation_config.json has the length and the votes of every evaluation of the policy."""
        names = {row.run for row in self.finished.own}
        found = [read_config(run.config) for run in self.finished.runs if run.name in names]
        settings = {(one.eval.max_completion_length, one.eval.num_votes) if one is not None else None for one in found}
        return settings == {(self.config.eval.max_completion_length, self.config.eval.num_votes)}

    @property
    def seconds(self) -> float | None:
        """Training time, all parts of an interrupted run together; None where it was not logged."""
        curve = self.finished.run.curves.get("seconds")
        return curve.values[-1] if curve else None

    @property
    def num_steps(self) -> int | None:
        """The last step that was logged."""
        steps = [curve.steps[-1] for curve in self.finished.run.curves.values()]
        return int(max(steps)) if steps else None

    @property
    def epochs(self) -> float | None:
        """Passes over the training questions; None where they were not logged."""
        lines = read_json_lines(self.finished.folder.metrics)
        epoch = lines[-1].get("epoch") if lines else None
        return float(epoch) if isinstance(epoch, int | float) else None


def build_card(finished: FinishedRun, *, name: str, hub_id: str, author: Author) -> Card:
    """The card of a run that is published as `name`; `hub_id` is what its example code loads."""
    trained = read_trained(finished)
    check_overlap(finished, trained)
    groups = group_evaluations(finished, trained)
    data = _describe_data(finished, trained)
    results = measure(finished, groups, data.tested)
    return Card(
        name=name,
        hub_id=hub_id,
        finished=finished,
        author=author,
        results=results,
        prompt=_build_prompt(finished),
        data=data,
        headline=tuple(headline for group in groups if (headline := _describe_group(finished, group)) is not None),
        notes=tuple(_notes(finished, groups, has_few=results.has_few)),
        domain=describe_domain(shared_domain([finished.run])),
        hyperparameters=tuple(_hyperparameters(finished)),
        recipe=json.dumps(public_recipe(finished.config, author.base_model or finished.base.name), indent=2),
        has_adapter=finished.folder.adapter.is_dir(),
    )


def _describe_group(finished: FinishedRun, group: Group) -> Headline | None:
    """The result of the policy on one set of questions, against the policy before training where that answered them too."""
    starts = [row for row in group.rows if row.is_zero_shot and row not in group.own]
    own = [replace(row, run=finished.run.name) for row in group.own]  # which knows what was trained on, wherever the records are
    lead = find_lead([finished.run] if group.domain else [], [*starts, *own]) if own else None
    return None if lead is None else Headline(place=group.place, sentences=(*describe_lead(lead), *explain_lead(lead)))


def _notes(finished: FinishedRun, groups: Sequence[Group], *, has_few: bool) -> Iterator[str]:
    """What a reader must know before comparing, for each set of questions."""
    published = [group for group in groups if group.own]
    for group in published:
        where = f"{group.place}: " if len(published) > 1 else ""
        for note in collect_notes([finished.run], group.own):
            if not note.startswith(_HIDDEN_NOTES):
                yield where + note
    if has_few:
        yield FEW
    if len(published) > 1:
        yield "Each set of questions has its own tables: accuracies on different questions cannot be compared."


def _build_prompt(finished: FinishedRun) -> Prompt:
    from osler.policies.load import open_processor

    strategy = find_strategy(finished.strategy)
    sample = Sample(
        id="example/1",
        dataset="example",
        images=(),
        question="Which organ is shown?",
        choices=("Liver", "Spleen"),
        target="A",
        modality=None,
        question_type=None,
    )
    text = render(sample, finished.strategy).text
    processor = open_processor(PolicyConfig(path=str(finished.folder.policy), device="cpu"))
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    example = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    has_open = any(not record.choices for row in finished.own for record in row.records)
    return Prompt(strategy=strategy, has_open=has_open, example=example, question=text)


def _describe_data(finished: FinishedRun, trained: Trained) -> Data:
    tested = merge_equal(describe_tested(finished, trained, row) for row in finished.own)
    part = finished.run.manifest.get("train")
    hashes = {}
    for key, what in (("ids_sha256", "ids"), ("content_sha256", "content")):
        if isinstance(part, dict) and isinstance(part.get(key), str):
            hashes[f"train {what}"] = part[key]
    hashes |= {f"ids of {', '.join(one.titles)}": one.ids_sha256 for one in tested}
    file = finished.folder.manifest
    names = dict.fromkeys((*trained.names, *(name for one in tested for name in one.names)))
    of_training = {*trained.names, *(name for one in tested if one.is_of_training for name in one.names)}
    return Data(
        reader=finished.config.data.reader,
        trained=trained,
        tested=tested,
        sources=tuple(describe_source(name, is_of_training=name in of_training) for name in names),
        manifest_sha256=digest_file(file) if file.is_file() else None,
        hashes=hashes,
    )


def _hyperparameters(finished: FinishedRun) -> list[tuple[str, str]]:
    """The settings of training that the recipe sets, by the names that they have there."""
    config = finished.config
    values = config.to_values()
    sections: dict[str, Any] = {
        "policy": {key: values["policy"][key] for key in ("dtype", "min_pixels", "max_pixels", "freeze_vision", "lora")}
    }
    if finished.method != "SFT":
        sections |= {"rewards": values["rewards"], "sampling": values["sampling"], "grpo": values["grpo"]}
    else:
        sections["sft"] = values["sft"]
    defaults = Config().model_dump(mode="json")["trainer"]
    sections["trainer"] = {key: value for key, value in values["trainer"].items() if value != defaults[key] and key != "vision_cache"}
    rows = [("seed", str(config.seed)), ("data.seed", str(config.data.seed))]
    for section, keys in sections.items():
        rows += [(f"{section}.{key}", json.dumps(value)) for key, value in keys.items() if value is not None]
    return rows


def write_card(card: Card) -> str:
    """The card as Markdown with its metadata. Raises PolicyError if the hub's own parser does not accept it."""
    from huggingface_hub import ModelCard

    text = f"---\n{card_metadata(card).to_yaml()}\n---\n\n" + fill("model_card.md.j2", card=card, software=software(card))
    try:
        ModelCard(text)
    except ValueError as error:
        raise PolicyError(f"the hub's parser does not accept the metadata of the card: {error}") from None
    return text


def card_metadata(card: Card) -> ModelCardData:
    """What the hub reads at the top of a card, with the results as `model-index`."""
    from huggingface_hub import ModelCardData

    results = eval_results(card)
    energy = card.author.energy
    extra: dict[str, Any] = {}
    if card.base_model is not None:
        extra["base_model_relation"] = "finetune"
    if energy is not None and energy.kg_co2 is not None:  # the hub counts grams
        emissions = {"emissions": 1000 * energy.kg_co2, "source": energy.measured_with, "training_type": "fine-tuning"}
        extra["co2_eq_emissions"] = emissions
    return ModelCardData(
        license=card.licence,
        base_model=card.base_model,
        datasets=[card.author.dataset_id] if card.author.dataset_id else None,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["osler", "medical", "not-for-clinical-use", card.finished.weights.model_type, card.finished.method.lower()],
        metrics=["accuracy"] if results else None,
        model_name=card.name,
        eval_results=results or None,
        **extra,
    )


def eval_results(card: Card) -> list[EvalResult]:
    """The accuracies of the policy, by modality and over all questions, and its image gains; shares of one with the interval in words."""
    found = []
    for row in card.finished.own:
        tested = next(one for one in card.data.tested if row.title in one.titles)
        title = "" if len(card.finished.own) == 1 else f"{row.title}: "
        groups = metrics.group(row.records, ("modality",))
        for (modality,), records in [((None,), list(row.records)), *groups.items()] if len(groups) > 1 else groups.items():
            accuracy = metrics.accuracy(records, UNIT)
            if accuracy.value is not None:
                name = f"{title}Accuracy in per cent {accuracy}, {accuracy.total} questions"
                found.append(_result(card, tested, modality, "accuracy", accuracy.value, name))
        table = gain_table([row, *(other for other in card.finished.evaluations if other.is_blind)])
        for modality, cell in zip(table.columns, table.rows[0].cells, strict=True) if table is not None else ():
            if cell.gain.value is not None:
                name = f"{title}Image gain in points {points(cell.gain)} over {cell.baseline}"
                found.append(_result(card, tested, modality, "image_gain", cell.gain.value, name))
    return found


def _result(card: Card, tested: Tested, modality: str | None, metric: str, value: float, name: str) -> EvalResult:
    from huggingface_hub import EvalResult

    stated = card.author.dataset_id if tested.is_of_training else None
    return EvalResult(
        task_type=TASK,
        task_name="Visual question answering",
        dataset_type=stated or "+".join(tested.names),
        dataset_name=tested.title,
        dataset_config=group_title(modality) if modality is not None else "all questions",
        dataset_split=tested.split,
        metric_type=metric,
        metric_name=name,
        metric_value=round(value, 4),
    )


def software(card: Card) -> list[tuple[str, str]]:
    """Name and version of the packages that the run was trained with."""
    packages = card.finished.run.environment.get("packages")
    known = packages if isinstance(packages, dict) else {}
    return [(name, str(known[name])) for name in ("osler", *PACKAGES) if known.get(name)]
