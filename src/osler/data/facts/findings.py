"""Reference findings written from an annotation: reasoning for SFT on data that has facts and no reasoning of its own.

One to three short sentences, each of which the grader reads as true of the image, then a conclusion that is the answer. Facts of what the
question names come first, then facts that bear on its type. A sample never holds a fact that only its own question states, so no sentence
was written from the answer. The sentences are plainer than a radiologist's, and say nothing about what the annotation leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import numpy as np

from osler.errors import DataError
from osler.facts import Fact, Kind, Truth
from osler.grading.relevance import bears_on
from osler.grading.statements import judge
from osler.grading.terms import fold_term
from osler.taxonomy import Modality
from osler.text import fold_words
from osler.types import Sample, answer_text

IMPRESSION: Final = "Impression:"
"""The radiologist's word for a conclusion, before the answer to any question."""
MAX_SENTENCES: Final = 3
NAMED: Final = frozenset({Kind.ANATOMY, Kind.PRESENCE, Kind.SIGN})
"""The kinds of which an image has several: a liver and a kidney."""

_FRAMES: Final[Mapping[tuple[Kind, bool], tuple[str, ...]]] = MappingProxyType(  # by kind, and whether the fact holds
    {
        (Kind.MODALITY, True): ("This is {a_value} image.", "The image is {a_value}."),
        (Kind.TECHNIQUE, True): ("The technique is {value}.", "This is a {value} image."),
        (Kind.PLANE, True): ("The plane is {value}.", "The image is {value}."),
        (Kind.ANATOMY, True): ("The image shows the {value}.", "The {value} is visible."),
        (Kind.ANATOMY, False): ("The {value} is not visible.",),
        (Kind.PRESENCE, True): ("There is {value}.", "The image shows {value}."),
        (Kind.PRESENCE, False): ("There is no {value}.", "The image shows no {value}."),
        (Kind.SIDE, True): ("The {about} is on the {value}.", "The {about} lies on the {value} side."),
        (Kind.SIDE, False): ("The {about} is not on the {value}.",),
        (Kind.POSITION, True): ("The {about} is in the {value} part of the image.", "The {about} lies in the {value} part of the image."),
        (Kind.SIZE, True): ("The {about} is {value}.",),
        (Kind.SEVERITY, True): ("The grade is {value}.",),
        (Kind.COUNT, True): ("The image shows {value} {about}.", "There are {value} {about}."),
        (Kind.COLOUR, True): ("The {about} is {value}.", "The {about} looks {value}."),
    }
)
_NAMES: Final = {kind.value: kind.title for kind in (Modality.CT, Modality.MRI, Modality.XRAY, Modality.OCT)}  # not words but letters
_SPELT_WITH_VOWEL: Final = frozenset({"MRI", "X-ray", "OCT"})
_COUNTABLE: Final = frozenset({"lesion", "tumour", "nodule", "mass", "fracture", "cyst", "polyp", "abscess", "haematoma", "aneurysm"})


def write_findings(sample: Sample, *, seed: int = 0) -> str:
    """One to three true sentences and the conclusion, by a seeded draw; the conclusion alone where no fact makes a sentence."""
    rng = np.random.default_rng([seed, *sample.id.encode()])
    num = int(rng.integers(1, MAX_SENTENCES + 1))
    sentences: list[str] = []
    stated: set[tuple[Kind, str | None]] = set()  # "upper left" says nothing new after "upper"
    for fact in _ranked(sample, rng):
        if len(sentences) == num:
            break
        subject = (fact.kind, fact.about or (fact.value if fact.kind in NAMED else None))
        sentence = _write(fact, rng)
        if sentence is not None and subject not in stated and _is_true(sentence, fact, sample):
            sentences.append(sentence)
            stated.add(subject)
    return " ".join([*sentences, IMPRESSION, answer_text(sample.target, sample.choices) or sample.target])


def _ranked(sample: Sample, rng: np.random.Generator) -> Iterator[Fact]:
    """Facts in the order in which they are worth stating, in random order where they are worth the same."""
    asked = f" {fold_words(sample.question)} "
    facts = sample.facts.facts if sample.facts is not None else ()
    drawn = [facts[place] for place in rng.permutation(len(facts))]

    def is_asked(fact: Fact) -> bool:
        return any(f" {' '.join(fold_term(name))} " in asked for name in (fact.about, fact.value) if name)

    for fact in sorted(drawn, key=lambda fact: (not is_asked(fact), not bears_on(sample.question_type, fact.kind), not fact.holds)):
        if fact.holds or fact.kind is not Kind.ANATOMY or is_asked(fact):  # "the brain is not visible" is beside the point on a chest
            yield fact


def _write(fact: Fact, rng: np.random.Generator) -> str | None:
    """A sentence that states the fact; None for facts that make no natural sentence, such as "the lesion is not 2"."""
    frames = _FRAMES.get((fact.kind, fact.holds))
    if frames is None:
        return None
    value, about = _NAMES.get(fact.value, fact.value), fact.about or "lesion"
    if fact.kind is Kind.TECHNIQUE:
        value = value[:1].upper() + value[1:]  # "T2-weighted"
    if fact.kind is Kind.PRESENCE and fact.holds and fold_term(value)[-1] in _COUNTABLE:
        value = _with_article(value)
    if fact.kind is Kind.COUNT and value != "1":
        about = f"{about}s"
    return frames[rng.integers(len(frames))].format(value=value, about=about, a_value=_with_article(value))


def _with_article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" or name in _SPELT_WITH_VOWEL else f"a {name}"


def _is_true(sentence: str, fact: Fact, sample: Sample) -> bool:
    """Whether the grader reads the sentence as true, and as a statement of the fact's kind."""
    assert sample.facts is not None
    statements = judge(sentence, facts=sample.facts, terms=sample.terms)
    truths = [statement.truth for statement in statements if statement.kind is fact.kind]
    return Truth.TRUE in truths and all(statement.truth is not Truth.FALSE for statement in statements)


def add_findings(samples: Sequence[Sample], *, seed: int = 0) -> list[Sample]:
    """The samples with findings written from their facts in place of missing rationales.

    Raises DataError when none of them has a fact.
    """
    if not any(sample.facts is not None and sample.facts.facts for sample in samples):
        raise DataError('[data] rationales = "facts" needs facts, and no question has any: `osler data check` shows which data have them')
    return [sample if sample.rationale is not None else replace(sample, rationale=write_findings(sample, seed=seed)) for sample in samples]
