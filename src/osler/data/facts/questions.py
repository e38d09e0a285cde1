"""Facts that a question about an image and its right answer state together, such as "Is there a fracture?" with "no".

Only wordings that are certain are read. A negative answer to a qualified question ("Is there a rib fracture?") denies less than the noun
alone, so it states nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Final

from osler.data.facts.names import anatomy_facts, finding_facts, finding_of, is_qualified, organ_of, value_of
from osler.facts import Fact, Kind
from osler.grading.terms import LESION, NUMBERS
from osler.text import fold_words

_IMAGE: Final = r"(?:image|picture|scan|film|section|radiograph|x ray|xray|cxr|ct|mri|ct scan|mri scan|chest x ray|chest xray)"
_HERE: Final = rf"(?: (?:in|on) (?:the|this)(?: above| shown)? {_IMAGE})?"
_SEEN: Final = r"(?: present| seen| noted| visible| visualized| shown| depicted| identified| demonstrated| pictured| evident)?"
_ARTICLE: Final = r"(?:an? |any |the )?"
_ANSWERS: Final = {"yes": True, "no": False}

# Yes-no questions, after `fold_words`: what they ask for is the group "name".
_IS_PRESENT: Final = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?:is|are|are is) there {_ARTICLE}(?:(?:evidence|signs|presence) of {_ARTICLE})?(?P<name>.+?){_SEEN}{_HERE}",
        rf"does (?:the|this) {_IMAGE} contain {_ARTICLE}(?P<name>.+)",
        rf"does (?:the|this) (?:{_IMAGE}|patient) (?:show|have|display|demonstrate) (?:evidence of )?{_ARTICLE}(?P<name>.+?){_HERE}",
        rf"(?:can|do) you (?:see|appreciate|visualize|identify|view) {_ARTICLE}(?P<name>.+?){_HERE}",
        rf"(?:does|do) {_ARTICLE}(?P<name>.+?) (?:appear|exist){_HERE}",
        rf"(?:is|are) {_ARTICLE}(?P<name>.+?) (?:present|seen|visible|visualized|shown|depicted|in view|in the image){_HERE}",
        rf"can {_ARTICLE}(?P<name>.+?) be (?:observed|seen|visualized|appreciated){_HERE}",
    )
)
_IS_REGION: Final = re.compile(r"is this a study of (?:the )?(?P<name>.+)|do the organs in the image exist in (?:the )?(?P<region>.+)")
_IS_PLANE: Final = re.compile(
    rf"is (?:this|the)(?: {_IMAGE})?(?: in)? ?{_ARTICLE}(?P<name>axial|transverse|sagittal|saggital|coronal)"
    r"(?: (?:brain|plane|section|view|image|cut|slice|film))*(?: of the \w+)?"
)
_IS_MODALITY: Final = re.compile(
    rf"is this {_ARTICLE}(?P<name>.+?)(?: (?:image|scan))?|(?:is|was) this image taken (?:via|with) {_ARTICLE}(?P<via>.+)"
)
_IS_WEIGHTED: Final = re.compile(r"is this an? (?:mri image with )?(?P<name>t[12]) weighted(?: mri)?(?: image)?")
_IS_ABNORMAL: Final = re.compile(
    rf"(?:(?:is|does) (?:this|the) {_IMAGE}(?: look)? (?P<state>normal|abnormal)"
    rf"|are there (?:any )?abnormalities{_HERE}|does the patient have any abnormalities)"
)
_IS_HEART_LARGE: Final = re.compile(r"(?:is|does) the heart (?:appear |look )?enlarged|is the cardiac silhouette enlarged")

# Open questions.
_ASKS_REGION: Final = re.compile(
    r"which part of the (?:human )?body .+|where does the (?:picture|image) .+|which part do the organs in this image locate .+"
    r"|wh(?:at|ich)(?: is the)? organ system (?:is |visualized)?.*|what part of the body is being imaged|what organ is this image of"
)
_ASKS_ORGANS: Final = re.compile(
    r"what is the (?:main|largest|rightmost|leftmost) organ in .+|which organs organ (?:in the picture belong|is part of).+"
    r"|which organs appear in pairs.*|what is the organ (?:on|located) .+|what organ is the .+"
)
_ASKS_FINDINGS: Final = re.compile(r"what diseases are included in the picture|(?P<part>what disease is are shown on .+)")
_ASKS_COUNT: Final = re.compile(rf"how many (?:existing )?(?P<name>.+?)(?: (?:are|have|has|does) .+)?{_HERE}")
_ASKS_COLOUR: Final = re.compile(rf"what color (?:is|are|does|do) (?:the )?(?P<name>.+?)(?: show)?{_HERE}")
_ASKS_PLANE: Final = re.compile(r".*\b(?:plane|section|cut)\b.*")
_ASKS_WEIGHTING: Final = re.compile(r"(?!.*\bbest\b).*\b(?:weighted|weighting|mri sequence|type of mri)\b.*")

_FAMILIES: Final = (("mass", "nodule", "cancer", "tumour", "enhancing tumour", "non-enhancing tumour"), ("pneumonia", "infiltration"),
                    ("pleural effusion", "effusion"), ("atelectasis",), ("pneumothorax",), ("cardiomegaly",))  # fmt: skip
"""SLAKE's diseases; those of one group can be names of the same disease. Oedema is left out: SLAKE names it only in the brain."""

_OTHER_COUNTS: Final = ("1", "2", "3", "4")


@lru_cache(maxsize=16384)
def read_facts(question: str, answer: str) -> tuple[Fact, ...]:
    """The facts that a question and its right answer state; () for wordings that are not certain."""
    asked, answered = fold_words(question), fold_words(answer)
    if answered in _ANSWERS:
        return tuple(dict.fromkeys(_read_yes_no(asked, _ANSWERS[answered])))
    return tuple(dict.fromkeys(fact for pattern, read in _OPEN if (match := pattern.fullmatch(asked)) for fact in read(match, answer)))


def _read_yes_no(asked: str, holds: bool) -> Iterator[Fact]:
    if match := _IS_ABNORMAL.fullmatch(asked):
        yield Fact(kind=Kind.PRESENCE, value=LESION, holds=holds != (match["state"] == "normal"))
    elif _IS_HEART_LARGE.fullmatch(asked):
        yield Fact(kind=Kind.PRESENCE, value="cardiomegaly", holds=holds)
        yield Fact(kind=Kind.SIZE, value="enlarged", about="heart", holds=holds)
    elif match := _IS_REGION.fullmatch(asked):
        yield from _shown(match["name"] or match["region"], holds)
    elif match := _IS_PLANE.fullmatch(asked):
        yield from (Fact(kind=Kind.PLANE, value=plane, holds=holds) for plane in _values(match["name"], Kind.PLANE))
    elif match := _IS_WEIGHTED.fullmatch(asked):
        yield from _technique(match["name"], holds)
    elif (match := _IS_MODALITY.fullmatch(asked)) and (found := value_of(match["name"] or match["via"], Kind.MODALITY)):
        yield Fact(kind=Kind.MODALITY, value=found, holds=holds)
    else:
        for pattern in _IS_PRESENT:
            if match := pattern.fullmatch(asked):
                yield from _shown(match["name"], holds)
                return


def _shown(name: str, holds: bool) -> Iterator[Fact]:
    """An organ or a finding of that name is or is not on the image."""
    if organ := organ_of(name):
        if holds:
            yield from anatomy_facts(organ)
        elif value_of(name, Kind.ANATOMY):  # without a side: an image without a left lung can show the right one
            yield Fact(kind=Kind.ANATOMY, value=organ, holds=False)
    elif finding := finding_of(name):
        if holds:
            yield from finding_facts(finding)
        elif finding == LESION or not is_qualified(name):
            yield Fact(kind=Kind.PRESENCE, value=finding, holds=False)


def _values(text: str, kind: Kind) -> Iterator[str]:
    """The values of a kind in a list such as "Lung, Heart and Liver"; none unless every part is one."""
    parts = [part for part in re.split(r",|\band\b|/", text) if part.strip()]
    values = [organ_of(part) if kind is Kind.ANATOMY else value_of(part, kind) for part in parts]
    if all(values):
        yield from (value for value in values if value)


def _technique(name: str, holds: bool = True) -> Iterator[Fact]:
    """An image is weighted by T1 or by T2, not by both."""
    if value := value_of(name, Kind.TECHNIQUE):
        yield Fact(kind=Kind.TECHNIQUE, value=value, holds=holds)
        if value in ("t1-weighted", "t2-weighted") and holds:
            yield Fact(kind=Kind.TECHNIQUE, value="t1-weighted" if value == "t2-weighted" else "t2-weighted", holds=False)


def findings_listed(names: Iterable[str], *, is_complete: bool) -> Iterator[Fact]:
    """The diseases that SLAKE names. A complete list denies its other diseases, except those that can be another name of a listed one."""
    found = [disease_of(name) for name in names]
    for finding in found:
        if finding:
            yield from finding_facts(finding)
    if is_complete and found and all(found):
        listed = {finding for finding in found if finding}
        for family in _FAMILIES:
            if listed.isdisjoint(family):
                yield from (Fact(kind=Kind.PRESENCE, value=other, holds=False) for other in family)


@lru_cache(maxsize=4096)
def disease_of(name: str) -> str | None:
    """The finding of a disease name of SLAKE, whose effusions are all pleural and whose tumours can be told by enhancement."""
    folded = fold_words(name)
    if match := re.fullmatch(r"brain (non )?enhancing tumor", folded):
        return "non-enhancing tumour" if match[1] else "enhancing tumour"
    finding = finding_of(name)
    return "pleural effusion" if finding == "effusion" else finding


def _listed(match: re.Match[str], answer: str) -> Iterator[Fact]:
    if fold_words(answer) in ("none", "normal"):
        if not match["part"]:
            yield Fact(kind=Kind.PRESENCE, value=LESION, holds=False)
    else:
        yield from findings_listed(answer.split(","), is_complete=not match["part"])


def _count(match: re.Match[str], answer: str) -> Iterator[Fact]:
    organ = organ_of(match["name"])
    about = organ or finding_of(match["name"])
    count = NUMBERS.get(fold_words(answer), fold_words(answer))
    if about is None or about == LESION or not count.isdecimal():
        return
    if organ and count == "0":
        yield Fact(kind=Kind.ANATOMY, value=organ, holds=False)
    elif organ:
        yield from anatomy_facts(organ)
    yield Fact(kind=Kind.COUNT, value=count, about=about)
    yield from (Fact(kind=Kind.COUNT, value=other, about=about, holds=False) for other in _OTHER_COUNTS if other != count)


def _colour(match: re.Match[str], answer: str) -> Iterator[Fact]:
    """Black is not white and white is not black; annotators do not draw the line to grey at the same place."""
    about = organ_of(match["name"]) or finding_of(match["name"])
    value = value_of(re.sub(r"^(?:light|dark) ", "", fold_words(answer)), Kind.COLOUR)
    if about and about != LESION and value:
        yield Fact(kind=Kind.COLOUR, value=value, about=about)
        if value in ("black", "white"):
            yield Fact(kind=Kind.COLOUR, value="white" if value == "black" else "black", about=about, holds=False)


def _planes(_: re.Match[str], answer: str) -> Iterator[Fact]:
    yield from (Fact(kind=Kind.PLANE, value=plane) for plane in _values(answer, Kind.PLANE))


def _organs(_: re.Match[str], answer: str) -> Iterator[Fact]:
    for organ in _values(answer, Kind.ANATOMY):
        yield from anatomy_facts(organ)


_OPEN: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str], str], Iterator[Fact]]], ...]] = (
    (_ASKS_REGION, _organs),
    (_ASKS_ORGANS, _organs),
    (_ASKS_FINDINGS, _listed),
    (_ASKS_COUNT, _count),
    (_ASKS_COLOUR, _colour),
    (_ASKS_PLANE, _planes),
    (_ASKS_WEIGHTING, lambda _, answer: _technique(answer)),
)
