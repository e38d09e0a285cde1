"""Faults of the rows: equal options, synonyms as distractors, right answers that contradict each other, unbalanced letters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from osler.audits.numbering import ABSENT, SampleTable, firsts_of, number_parts, number_rows
from osler.metrics.estimates import Count, Share
from osler.text import fold_words, ignore_case_and_end
from osler.types import LETTERS, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from osler.audits.numbering import Ints

    Flags = NDArray[np.bool_]

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
"""Texts with the same meaning, folded and in American spelling. Ambiguous ones are left out: "DR" is also digital radiography."""

_SPELLINGS: Final = (("aem", "em"), ("oed", "ed"), ("oes", "es"), ("umour", "umor"), ("colour", "color"), ("isation", "ization"))
"""British -> American, inside words: haematoma, oedema, oesophagus, tumour."""

_ABBREVIATED: Final = re.compile(r"(?P<long>.+?)\s*\((?P<short>[A-Z][\w -]*)\)")
_ARTICLE: Final = re.compile(r"^(?:a|an|the) ")

_NAMES: Final[Mapping[str, str]] = {name: group[0] for group in _SYNONYMS for name in group}


@cache
def name_concept(option: str) -> str:
    """The meaning of an option by the table of synonyms: "Magnetic Resonance Imaging (MRI)" and "mri scan" -> "mri".

    For an option that is not in the table it is the option's own folded text. Signs are kept: "T1+" is not "T1-".
    """
    match = _ABBREVIATED.fullmatch(option.strip()) if "(" in option else None
    text = match["long"] if match and _abbreviates(match["short"], match["long"]) else option
    return _NAMES.get(_ARTICLE.sub("", _american(fold_words(text)))) or _american(ignore_case_and_end(option))


def _abbreviates(short: str, long: str) -> bool:
    """Whether `long` contains the letters of `short` in this order: CT in "computed tomography"."""
    letters = iter(long.lower())
    return all(letter in letters for letter in short.lower() if letter.isalpha())


def _american(text: str) -> str:
    for british, american in _SPELLINGS:
        text = text.replace(british, american)
    return text


MAX_LISTED: Final = 20
"""How many rows of each fault are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The rows with one kind of fault."""

    num_rows: Annotated[Count, Field(alias="rows")]
    ids: tuple[str, ...]  # sample ids of the first MAX_LISTED rows


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterBalance:
    """How often each letter is right among questions with the same number of options."""

    questions: Annotated[int, Field(gt=0)]
    shares: Mapping[str, Share]  # {"A": 0.26, ..}
    p_value: Share  # chi-squared test of even shares


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Faults among distinct rows."""

    num_rows: Annotated[Count, Field(alias="rows")]
    num_closed: Annotated[Count, Field(alias="closed")]  # rows with choices
    refused: Mapping[str, Count]  # reason -> rows that the reader left out
    duplicate_options: Fault  # two options are the same text but for case and punctuation
    synonymous_options: Fault  # two options mean the same by the table, but are not the same text
    synonyms_of_target: Fault  # a distractor means what the target means
    contradictory_golds: Fault  # rows with the same images and question have another right answer
    contradicted_by_option: Fault  # .. and that other answer is a distractor here
    letters: Mapping[int, LetterBalance]  # number of options -> right letters

    @property
    def faults(self) -> dict[str, Fault]:
        """Every kind of fault by the name of its field."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Fault)}

    @property
    def num_refused(self) -> int:
        """Rows that the reader left out."""
        return sum(self.refused.values())


def assess(samples: Sequence[Sample], refused: Iterable[str] = (), *, table: SampleTable | None = None) -> Quality:
    """The faults of samples; a row that is in several files counts once. `refused` holds the reader's reason for each row left out.

    `table` is that of the samples where there is one already.
    """
    table = table or SampleTable.of(samples)
    places = _distinct(table)
    closed = places[table.is_closed[places]]
    contradictory, by_option = _find_contradictions(table, places)
    options = _OptionFaults.of(table)
    return Quality(
        num_rows=len(places),
        num_closed=len(closed),
        refused=dict(Counter(refused).most_common()),
        duplicate_options=_fault(table.samples[place] for place in closed[options.has_duplicates[table.choices[closed]]].tolist()),
        synonymous_options=_fault(table.samples[place] for place in closed[options.has_synonyms[table.choices[closed]]].tolist()),
        synonyms_of_target=_fault(table.samples[place] for place in closed[options.repeat_target(table, closed)].tolist()),
        contradictory_golds=_fault(contradictory),
        contradicted_by_option=_fault(by_option),
        letters=_balance_letters(table, closed),
    )


def _distinct(table: SampleTable) -> Ints:
    """The place of the last of equal rows, in the order of the first of them."""
    import numpy as np

    numbers = number_rows(table.images, table.questions, table.choices, table.targets)
    lasts = len(numbers) - 1 - firsts_of(numbers[::-1])
    return lasts[np.argsort(firsts_of(numbers))]


@dataclass(frozen=True, slots=True, kw_only=True)
class _OptionFaults:
    """The faults of the tuples of options of a table, T in all of at most K options."""

    has_duplicates: Flags  # (T,) two options are the same but for case, spacing and a full stop
    has_synonyms: Flags  # (T,) two options of different text mean the same by the table of synonyms
    concepts: Ints  # (T, K) numbers of the meanings; ABSENT beyond the last option

    @classmethod
    def of(cls, table: SampleTable) -> _OptionFaults:
        """Compare the options of each tuple."""
        is_there = table.options != ABSENT
        folded, concepts = (_number_options(table, rule) for rule in (ignore_case_and_end, name_concept))
        num_folded, num_concepts = _count_distinct(folded), _count_distinct(concepts)
        return cls(has_duplicates=num_folded < is_there.sum(axis=1), has_synonyms=num_concepts < num_folded, concepts=concepts)

    def repeat_target(self, table: SampleTable, closed: Ints) -> Flags:
        """Whether a distractor of each of these questions has the meaning of the right option, so that two answers are right."""
        concepts = self.concepts[table.choices[closed]]
        right = concepts[range(len(closed)), table.target_columns[closed]]
        repeated: Flags = (concepts == right[:, None]).sum(axis=1) > 1
        return repeated


def _fault(samples: Iterable[Sample]) -> Fault:
    ids = [sample.id for sample in samples]
    return Fault(num_rows=len(ids), ids=tuple(ids[:MAX_LISTED]))


def _number_options(table: SampleTable, rule: Callable[[str], str]) -> Ints:
    """(T, K) a number for what a rule makes of each option; ABSENT beyond the last one."""
    import numpy as np

    numbers = number_parts(list(map(rule, table.option_texts)))[0]
    return np.append(numbers, ABSENT)[table.options]  # ABSENT is the last place


def _count_distinct(numbers: Ints) -> Ints:
    """(T,) how many different numbers each row (T, K) has, without ABSENT."""
    import numpy as np

    ordered = np.sort(numbers, axis=1)
    is_new = np.diff(ordered, axis=1, prepend=ABSENT) != 0
    distinct: Ints = is_new.sum(axis=1)
    return distinct


def _find_contradictions(table: SampleTable, places: Ints) -> tuple[list[Sample], list[Sample]]:
    """The rows with the images and question of another row but another right answer, and those of them that have it as a distractor."""
    import numpy as np

    asked = number_rows(table.images[places], table.questions[places])
    order = np.argsort(asked, kind="stable")
    sizes = np.bincount(asked)
    firsts = firsts_of(asked)
    ends = np.cumsum(sizes)
    contradictory: list[Sample] = []
    by_option: list[Sample] = []
    several = np.flatnonzero(sizes > 1)
    for group in several[np.argsort(firsts[several])].tolist():
        members = [table.samples[place] for place in places[order[ends[group] - sizes[group] : ends[group]]].tolist()]
        golds = {name_concept(sample.target_text) for sample in members}
        if len(golds) < 2:
            continue
        contradictory += members
        for sample in members:
            others = golds - {name_concept(sample.target_text)}
            if others & {name_concept(choice) for choice in sample.choices}:
                by_option.append(sample)
    return contradictory, by_option


def _balance_letters(table: SampleTable, closed: Ints) -> dict[int, LetterBalance]:
    import numpy as np
    from scipy.special import chdtrc  # faster to import than scipy.stats

    sizes = (table.options != ABSENT).sum(axis=1)[table.choices[closed]]
    times = np.zeros((len(LETTERS) + 1, len(LETTERS)), dtype=np.int64)
    np.add.at(times, (sizes, table.target_columns[closed]), 1)
    balances = {}
    for size in np.unique(sizes).tolist():
        counts = dict(zip(LETTERS[:size], times[size].tolist(), strict=False))
        total = sum(counts.values())
        statistic = sum((count - total / size) ** 2 / (total / size) for count in counts.values())
        shares = {letter: count / total for letter, count in counts.items()}
        balances[size] = LetterBalance(questions=total, shares=shares, p_value=float(chdtrc(size - 1, statistic)))
    return balances
