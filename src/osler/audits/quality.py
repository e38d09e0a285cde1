"""What is wrong with the rows themselves: equal options, golds that contradict each other, synonyms as distractors, unbalanced letters."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Final

from osler.text import fold_words, ignore_case_and_end
from osler.types import LETTERS, Sample

_SYNONYMS: Final = (
    ("age related macular degeneration", "agerelated macular degeneration", "amd", "armd"),
    ("basal cell carcinoma", "bcc"),
    ("bladder", "urinary bladder"),
    ("central serous retinopathy", "central serous chorioretinopathy"),
    ("chest xray", "chest x ray", "chest radiograph", "cxr"),
    ("chronic obstructive pulmonary disease", "copd"),
    ("covid", "covid 19", "coronavirus disease 2019", "covid 19 infection"),
    ("ct", "computed tomography", "cat scan", "ct scan", "computed tomography scan", "computerized tomography", "ct imaging"),
    ("dermoscopy", "dermatoscopy", "dermoscopic imaging", "epiluminescence microscopy"),
    ("diabetic macular edema", "dme"),
    ("diabetic retinopathy",),
    ("echocardiogram", "echocardiography", "cardiac ultrasound"),
    ("electrocardiogram", "ecg", "ekg", "electrocardiography", "electrocardiogram imaging"),
    ("electroencephalogram", "eeg", "electroencephalography"),
    ("fundus photography", "color fundus photography", "retinal fundus imaging", "fundus imaging", "retinal photography"),
    ("heart attack", "myocardial infarction"),
    ("high blood pressure", "hypertension"),
    ("kidney", "kidneys"),
    ("kidney stone", "kidney stones", "nephrolithiasis", "renal calculus", "renal calculi", "renal stone"),
    ("large intestine", "large bowel"),
    ("lung", "lungs"),
    ("mammography", "mammogram"),
    ("melanocytic nevus", "melanocytic nevi", "common mole"),
    ("mri", "mr imaging", "mri scan", "magnetic resonance imaging", "mri imaging"),
    ("optical coherence tomography", "oct", "oct imaging"),
    ("ovary", "ovaries"),
    ("pet", "pet scan", "positron emission tomography", "positron emission tomography scan"),
    ("prostate", "prostate gland"),
    ("small intestine", "small bowel"),
    ("spect", "single photon emission computed tomography"),
    ("testicle", "testis", "testicles", "testes"),
    ("thyroid", "thyroid gland"),
    ("ultrasound", "ultrasonography", "sonography", "sonogram", "ultrasound imaging", "ultrasound scan"),
    ("uterus", "womb"),
    ("xray", "x ray", "radiography", "radiograph", "plain film", "xray imaging", "x ray imaging", "xray scan"),
)
"""Texts that name one thing, folded and in American spelling. Only what holds in every use: "DR" is also digital radiography."""

_SPELLINGS: Final = (("aem", "em"), ("oed", "ed"), ("oes", "es"), ("umour", "umor"), ("colour", "color"), ("isation", "ization"))
"""British -> American, inside words: haematoma, oedema, oesophagus, tumour."""

_ABBREVIATED: Final = re.compile(r"(?P<long>.+?)\s*\((?P<short>[A-Z][\w -]*)\)")
_ARTICLE: Final = re.compile(r"^(?:a|an|the) ")

_NAMES: Final[Mapping[str, str]] = MappingProxyType({name: group[0] for group in _SYNONYMS for name in group})


@cache
def name_concept(option: str) -> str:
    """What an option means as far as the table tells: "Magnetic Resonance Imaging (MRI)" and "mri scan" -> "mri".

    An option that no rule knows is its own folded text, so that unknown never equals unknown. Signs are kept: "T1+" is not "T1-".
    """
    match = _ABBREVIATED.fullmatch(option.strip())
    text = match["long"] if match and _abbreviates(match["short"], match["long"]) else option
    known = _NAMES.get(_ARTICLE.sub("", _american(fold_words(text))))
    return known or _american(ignore_case_and_end(option))


def _abbreviates(short: str, long: str) -> bool:
    """Whether the letters of `short` stand in `long` in this order: CT in "computed tomography"."""
    letters = iter(long.lower())
    return all(letter in letters for letter in short.lower() if letter.isalpha())


def _american(text: str) -> str:
    for british, american in _SPELLINGS:
        text = text.replace(british, american)
    return text


FAULTS: Final = ("duplicate_options", "synonymous_options", "synonyms_of_target", "contradictory_golds", "contradicted_by_option")
"""The lists of a Quality."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterBalance:
    """How often each letter is right among questions with the same number of options, against an even share."""

    num_choices: int
    counts: tuple[int, ...]
    p_value: float  # chi-squared test of even shares

    @property
    def shares(self) -> dict[str, float]:
        """Letter -> share, {"A": 0.26, ..}."""
        return dict(zip(LETTERS, (count / sum(self.counts) for count in self.counts), strict=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Faults among distinct questions; each list holds sample ids."""

    num_rows: int
    num_closed: int
    duplicate_options: tuple[str, ...]  # two options are the same text but for case and punctuation
    synonymous_options: tuple[str, ...]  # two options mean the same by the table, but are not the same text
    synonyms_of_target: tuple[str, ...]  # a distractor means what the target means
    contradictory_golds: tuple[str, ...]  # the same images and question have another gold elsewhere
    contradicted_by_option: tuple[str, ...]  # .. and that other gold is a distractor here
    letters: tuple[LetterBalance, ...]
    refused: Mapping[str, int]  # reason -> rows that no sample was made of
    unlisted: Mapping[str, int] = field(default_factory=dict)  # fault -> further rows, whose ids a saved audit does not keep

    @property
    def faults(self) -> dict[str, tuple[str, ...]]:
        """Fault -> ids of the rows that have it."""
        return {name: getattr(self, name) for name in FAULTS}

    def count(self, fault: str) -> int:
        """How many rows have a fault."""
        return len(self.faults[fault]) + self.unlisted.get(fault, 0)

    @property
    def num_refused(self) -> int:
        """Rows that no sample was made of."""
        return sum(self.refused.values())


def assess(samples: Sequence[Sample], refused: Iterable[str] = ()) -> Quality:
    """The faults of samples; a row that stands in several files counts once. `refused` are the reader's reasons for leaving rows out."""
    distinct = list({(sample.images, sample.question, sample.choices, sample.target): sample for sample in samples}.values())
    closed = [sample for sample in distinct if sample.choices]
    contradictory, by_option = _find_contradictions(distinct)
    return Quality(
        num_rows=len(distinct),
        num_closed=len(closed),
        duplicate_options=tuple(sample.id for sample in closed if has_duplicates(sample.choices)),
        synonymous_options=tuple(sample.id for sample in closed if has_synonyms(sample.choices)),
        synonyms_of_target=tuple(sample.id for sample in closed if is_target_repeated(sample)),
        contradictory_golds=contradictory,
        contradicted_by_option=by_option,
        letters=_balance_letters(closed),
        refused=dict(Counter(refused).most_common()),
    )


@cache
def has_duplicates(choices: tuple[str, ...]) -> bool:
    """Whether two options are the same but for case, spacing and a full stop."""
    return len({ignore_case_and_end(choice) for choice in choices}) < len(choices)


@cache
def has_synonyms(choices: tuple[str, ...]) -> bool:
    """Whether two options of different text mean the same by the table."""
    return len({name_concept(choice) for choice in choices}) < len({ignore_case_and_end(choice) for choice in choices})


def is_target_repeated(sample: Sample) -> bool:
    """Whether a distractor means what the right option means, so that two answers are right."""
    right = LETTERS.index(sample.target)
    concept = name_concept(sample.choices[right])
    return any(name_concept(choice) == concept for column, choice in enumerate(sample.choices) if column != right)


def _find_contradictions(samples: Iterable[Sample]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The ids of rows whose images and question have another gold elsewhere, and of those that offer it as a distractor."""
    groups: defaultdict[tuple[object, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.images, sample.question].append(sample)
    contradictory: list[str] = []
    by_option: list[str] = []
    for members in groups.values():
        golds = {name_concept(sample.target_text) for sample in members} if len(members) > 1 else set[str]()
        if len(golds) < 2:
            continue
        for sample in members:
            contradictory.append(sample.id)
            others = golds - {name_concept(sample.target_text)}
            if others & {name_concept(choice) for choice in sample.choices}:
                by_option.append(sample.id)
    return tuple(contradictory), tuple(by_option)


def _balance_letters(closed: Iterable[Sample]) -> tuple[LetterBalance, ...]:
    from scipy.special import chdtrc  # lighter than scipy.stats, and all that the test needs

    counts: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for sample in closed:
        counts[len(sample.choices)][sample.target] += 1
    balances = []
    for size, found in sorted(counts.items()):
        numbers = tuple(found[letter] for letter in LETTERS[:size])
        expected = found.total() / size
        statistic = sum((number - expected) ** 2 / expected for number in numbers)
        balances.append(LetterBalance(num_choices=size, counts=numbers, p_value=float(chdtrc(size - 1, statistic))))
    return tuple(balances)
