"""How often an open answer is misread, over the open questions of real data: one row for each phrasing of the reference.

    python -m tools.check_open_answers DATA      # the folder that holds slake/ and vqa_rad/

Every reference is written in each phrasing and compared with itself: it must be right. Then the answers of the same dataset to the same
kind of question are compared with it, in pairs: none that means something else may be right. `pairs_read_as_equal` lists those that are.
"""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tqdm import tqdm

from osler.data.readers import ReadReport, read_with_report
from osler.grading import grade
from osler.grading.comparison import compare
from osler.grading.grade import is_undecided
from osler.text import fold_answer
from osler.types import Outcome

Writer = Callable[[str], str | None]
"""A reference -> the same answer in other words; None where the phrasing does not fit it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The right answer of at least one open question."""

    text: str
    language: str  # "en" or "zh"
    kind: str  # dataset and content type: "slake Organ"


def _lower_first(text: str) -> str:
    return text if text[:2].isupper() or not text.isascii() else text[:1].lower() + text[1:]


def _replace(pairs: Mapping[str, str]) -> Writer:
    """A writer that replaces the first of these words that a reference has."""
    patterns = [(re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE), other) for word, other in pairs.items()]

    def write(text: str) -> str | None:
        return next((pattern.sub(other, text) for pattern, other in patterns if pattern.search(text) and "?" not in text), None)

    return write


def _replace_characters(pairs: Mapping[str, str]) -> Writer:
    return lambda text: next((text.replace(word, other) for word, other in pairs.items() if word in text), None)


def _is_phrase(text: str) -> bool:
    """Whether a reference is short, so that it can stand within a sentence."""
    return len(text.split()) <= 4 and not re.search(r"[?~]|^(on|in) |^(none|nothing|not seen|not sure)\b|\b(is|on) ", text, re.IGNORECASE)


def _in_sentence(form: str) -> Writer:
    return lambda text: form.format(_lower_first(text.rstrip("."))) if _is_phrase(text) else None


def _plural(text: str) -> str | None:
    words = text.split()
    is_noun = _is_phrase(text) and text.isascii() and words[-1].isalpha() and words[-1][-1].lower() not in "sxyzi" and " of " not in text
    return f"{text}s" if is_noun and not words[-1].isupper() and "," not in text and text.lower() != "one" else None


def _other_unit(text: str) -> str | None:
    match = re.fullmatch(r"([\d.]+) ?(cm|mm)", text.strip())
    if match is None:
        return None
    factor, unit = (10, "mm") if match[2] == "cm" else (0.1, "cm")
    return f"{float(match[1]) * factor:g} {unit}"


def _other_order(text: str) -> str | None:
    """The items of a list in reverse order; of two sides the order has a meaning, as in "Left Lung, Lower Right"."""
    parts = [part.strip() for part in re.split("[,，]", text) if not re.search("left|right|etc", text, re.IGNORECASE)]
    return " and ".join(reversed(parts)) if text.isascii() and len(parts) > 1 and "and" not in text and all(parts) else None


_NUMBER_WORDS: Final = {"0": "zero", "1": "one", "2": "two", "3": "three", "4": "four", "5": "five", "6": "six", "7": "seven"}
_SYNONYMS: Final = {
    "x-ray": "radiograph", "xray": "radiograph", "mri": "magnetic resonance imaging", "ct": "computed tomography",
    "transverse plane": "axial plane", "transverse  plane": "axial plane", "axial": "transverse", "coronal plane": "frontal plane",
    "chest": "thorax", "abdomen": "abdominal cavity", "pulmonary": "lung", "both lung": "bilateral lungs", "bilateral": "both",
    "left side": "left", "top": "upper", "bottom": "lower", "center": "middle", "circular": "round", "oval": "elliptical",
    "bladder": "urinary bladder", "intestine": "bowel", "small bowel": "small intestine", "large bowel": "large intestine",
    "cardiomegaly": "enlarged heart", "infarct": "stroke", "hypodense": "low density", "hyperdense": "high density", "t2 weighted": "T2",
    "liver": "hepatic", "kidney": "renal", "cancer": "carcinoma", "mandible": "jaw", "female": "woman",
}  # fmt: skip
_SPELLINGS: Final = {
    "edema": "oedema", "tumor": "tumour", "gray": "grey", "color": "colour", "center": "centre", "esophagus": "oesophagus",
    "hemorrhage": "haemorrhage", "hematoma": "haematoma", "ischemic": "ischaemic", "grey": "gray", "tumors": "tumours",
}  # fmt: skip
_CHINESE_SYNONYMS: Final = {
    "核磁共振": "磁共振成像", "X光": "X线", "横断面": "横切面", "冠状面": "冠状位", "胸腔积液": "胸水", "胸腔": "胸部", "大脑": "脑",
    "肺脏": "肺", "肝脏": "肝",
    "心脏肥大": "心脏扩大", "左侧": "左边", "右侧": "右边", "双侧": "两侧", "脑瘤": "脑肿瘤", "椭圆形": "椭圆", "食管": "食道",
    "黑色": "黑",
    "灰色": "灰", "圆形": "圆", "中心": "中央", "顶部": "上部", "眼睛": "眼", "肾脏": "肾", "心脏": "心",
}  # fmt: skip

ENGLISH: Final[Mapping[str, Writer]] = {
    "`liver` (as it is)": lambda text: text,
    "`LIVER`": lambda text: text.upper(),
    "`liver`": lambda text: text.lower(),
    "`liver.`": lambda text: f"{text.rstrip('.')}.",
    "`**liver**`": lambda text: f"**{text}**",
    '`"liver"`': lambda text: f'"{text}"',
    "`the liver`": lambda text: f"the {_lower_first(text)}",
    "`livers` (plural)": _plural,
    "`It is the liver.`": _in_sentence("It is the {}."),
    "`The answer is liver.`": _in_sentence("The answer is {}."),
    "`This is the liver.`": _in_sentence("This is the {}."),
    "`The image shows the liver.`": _in_sentence("The image shows the {}."),
    "`The organ is the liver.`": _in_sentence("The organ is the {}."),
    "`probably the liver`": _in_sentence("probably the {}"),
    "`It is most likely the liver.`": _in_sentence("It is most likely the {}."),
    "`I think it is the liver.`": _in_sentence("I think it is the {}."),
    "`In the liver`": _in_sentence("In the {}"),
    "`liver, because it is large`": _in_sentence("{} because it is large"),
    "`The liver is shown.`": _in_sentence("The {} is shown."),
    "another synonym": _replace(_SYNONYMS),
    "another spelling": _replace(_SPELLINGS),
    "another unit": _other_unit,
    "a number in words": lambda text: _NUMBER_WORDS.get(text.strip()),
    "another order of a list": _other_order,
}
CHINESE: Final[Mapping[str, Writer]] = {
    "`肝脏` (as it is)": lambda text: text,
    "`肝脏。`": lambda text: f"{text}。",
    "`肝脏.`": lambda text: f"{text}.",
    "`“肝脏”`": lambda text: f"“{text}”",
    "`**肝脏**`": lambda text: f"**{text}**",
    "`答案是肝脏。`": lambda text: f"答案是{text}。",
    "`答案：肝脏`": lambda text: f"答案：{text}",
    "`是肝脏`": lambda text: f"是{text}",
    "`这是肝脏。`": lambda text: f"这是{text}。",
    "`可能是肝脏。`": lambda text: f"可能是{text}。",
    "`应该是肝脏`": lambda text: f"应该是{text}",
    "`我认为是肝脏。`": lambda text: f"我认为是{text}。",
    "`图像显示的是肝脏。`": lambda text: f"图像显示的是{text}。",
    "`图中的器官是肝脏。`": lambda text: f"图中的器官是{text}。",
    "`\\boxed{肝脏}`": lambda text: f"\\boxed{{{text}}}",
    "full-width comma": lambda text: text.replace(",", "，") if "," in text else None,
    "`、` between items": lambda text: text.replace(",", "、") if "," in text else None,
    "another synonym": _replace_characters(_CHINESE_SYNONYMS),
    "a number in words": lambda text: dict(zip("0123456", "零一两三四五六", strict=True)).get(text.strip()),
}  # fmt: skip

DENIALS: Final = {
    "en": (
        "not {}", "no {}", "without {}", "It is not the {}.", "It isn't the {}.", "The {} is not shown.", "The {} is absent.",
        "There is no sign of {}.", "everything except the {}", "an organ other than the {}", "{} or something else", "{} is ruled out",
        "negative for {}", "neither {} nor anything else", "the bone rather than the {}", "Is it the {}?", "{} is unlikely", "{} is wrong",
        "It cannot be the {}.", "could be {} but I am not sure", "I don't know whether it is the {}", "{}: false", "below the {}",
        "{} and femur", "{}, femur, tibia",
    ),
    "zh": ("不是{}", "没有{}", "并非{}", "除了{}", "{}或股骨", "是{}吗？", "不能确定是{}", "未见{}", "{}和股骨", "{}、股骨、胫骨"),
}  # fmt: skip
"""Texts that hold a reference and do not answer with it."""


def read_references(data: Path, read: Callable[..., ReadReport] = read_with_report) -> list[Reference]:
    """The different answers to open questions of SLAKE, in both languages, and of VQA-RAD, as their annotation has them.

    `read` may be a reader that keeps what it has read.
    """
    found = set()
    for name, options in (("slake", {"language": "all"}), ("vqa_rad", {})):
        for sample in read(name, data / name, **options).samples:
            answer = str(sample.metadata["answer"]).strip()
            if str(sample.metadata["answer_type"]).strip() == "OPEN" and any(map(str.isalnum, answer)):
                language = str(sample.metadata.get("language", "en"))
                kind = f"{name} {sample.metadata['content_type']}" if name == "slake" else name
                found.add(Reference(text=answer, language=language, kind=f"{kind} {language}"))
    return sorted(found, key=lambda reference: (reference.kind, reference.text))


def count_phrasings(references: Iterable[Reference]) -> dict[str, Counter[str]]:
    """Phrasing -> "right", "wrong", "undecided" and "unread" -> number of references, in both languages."""
    table: dict[str, Counter[str]] = {}
    for reference in tqdm(references, desc="phrasings", disable=None):
        for name, write in (ENGLISH if reference.language == "en" else CHINESE).items():
            text = write(reference.text)
            if text is None:
                continue
            counts = table.setdefault(f"{reference.language}: {name}", Counter())
            counts[judge(text, reference.text)] += 1
    return table


def count_denials(references: Iterable[Reference]) -> dict[str, Counter[str]]:
    """Denial -> "right", "wrong", "undecided" and "unread" -> number of references."""
    table: dict[str, Counter[str]] = {}
    for reference in tqdm(references, desc="denials", disable=None):
        for form in DENIALS[reference.language]:
            text = form.format(_lower_first(reference.text.rstrip(".")))
            table.setdefault(form, Counter())[judge(text, reference.text)] += 1
    return table


def judge(text: str, target: str) -> str:
    """What grading makes of an answer: "right", "wrong", "undecided", or "unread" where no answer is read."""
    verdict = grade(f"<answer>{text}</answer>", choices=(), target=target, strategy="no_think")
    if verdict.answer is None:
        return "unread"
    return "right" if verdict.outcome is Outcome.CORRECT else "undecided" if is_undecided(verdict.rule) else "wrong"


def compare_others(references: Iterable[Reference]) -> dict[str, Counter[str]]:
    """Kind of question -> "right", "wrong" and "undecided" -> number of ordered pairs of its answers that differ by `fold_answer`."""
    table: dict[str, Counter[str]] = {}
    for kind, answer, target in _pairs(references):
        found = compare(answer, target).is_right
        table.setdefault(kind, Counter())["undecided" if found is None else "right" if found else "wrong"] += 1
    return table


def pairs_read_as_equal(references: Iterable[Reference]) -> list[tuple[str, str]]:
    """The pairs that differ by `fold_answer` and are equal by another rule, for a person to read."""
    return sorted({(answer, target) for _, answer, target in _pairs(references) if answer < target and compare(answer, target).is_right})


def _pairs(references: Iterable[Reference]) -> Iterator[tuple[str, str, str]]:
    by_kind: defaultdict[str, list[str]] = defaultdict(list)
    for reference in references:
        by_kind[reference.kind].append(reference.text)
    for kind, texts in by_kind.items():
        for answer in texts:
            for target in texts:
                if fold_answer(answer) != fold_answer(target):
                    yield kind, answer, target


def report(references: list[Reference]) -> Iterator[str]:
    """The lines of the tables, in Markdown."""
    yield f"{len(references):,} different references\n"
    yield "| Phrasing | references | right | wrong | undecided | unread |\n|---|---|---|---|---|---|"
    for name, counts in count_phrasings(references).items():
        numbers = " | ".join(f"{counts[what]:,}" for what in ("right", "wrong", "undecided", "unread"))
        yield f"| {name} | {counts.total():,} | {numbers} |"
    yield "\n| Denial | references | right | wrong | undecided | unread |\n|---|---|---|---|---|---|"
    for name, counts in count_denials(references).items():
        numbers = " | ".join(f"{counts[what]:,}" for what in ("right", "wrong", "undecided", "unread"))
        yield f"| `{name}` | {counts.total():,} | {numbers} |"
    yield "\n| Other answers to | pairs | right | wrong | undecided |\n|---|---|---|---|---|"
    for kind, counts in compare_others(references).items():
        shares = " | ".join(f"{counts[what]:,}" for what in ("right", "wrong", "undecided"))
        yield f"| {kind} | {counts.total():,} | {shares} |"
    yield "\nRead as equal:"
    for answer, target in pairs_read_as_equal(references):
        yield f"- {answer} = {target}"


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in report(read_references(Path(sys.argv[1]))))
