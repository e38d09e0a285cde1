"""Open answers: every phrasing of a reference is right, and no other answer is. Real references: `test_readers_real.py`."""

from tools.check_open_answers import (
    CHINESE,
    ENGLISH,
    Reference,
    compare_others,
    count_denials,
    count_phrasings,
    pairs_read_as_equal,
    report,
)

ENGLISH_TEXTS = ("Liver", "Left Lung", "Liver, Heart", "CT", "2", "5 cm", "Brain Edema", "Transverse Plane", "Upper Left")
CHINESE_TEXTS = ("肝脏", "左肺", "肝脏,心脏", "核磁共振", "2", "无", "脑水肿")
REFERENCES = [
    *(Reference(text=text, language="en", kind="toy en") for text in ENGLISH_TEXTS),
    *(Reference(text=text, language="zh", kind="toy zh") for text in CHINESE_TEXTS),
]


def check(references: list[Reference]) -> None:
    assert min(len(ENGLISH), len(CHINESE)) >= 15
    for name, counts in count_phrasings(references).items():
        assert counts["right"] == counts.total(), name
    for name, counts in count_denials(references).items():
        assert counts["right"] == 0, name


def test_every_phrasing_is_right_and_no_other_answer_is() -> None:
    check(REFERENCES)
    assert pairs_read_as_equal(REFERENCES) == []
    assert sum(counts["right"] for counts in compare_others(REFERENCES).values()) == 0
    assert "\n".join(report(REFERENCES)).count("\n|") > 30
