"""The grader over choice sets: no phrasing is misread. Those of real data are in `test_readers_real.py`, which reads them."""

from tools.check_grader import ANSWERS, PAIRS, REFUSALS, count_answers, count_others, report

SETS = [
    (("CT", "MRI", "X-ray", "Ultrasound"), 1),
    (("Yes", "No"), 0),
    (("Left lung", "Right lung", "Both lungs"), 2),
    (("Hepatitis A", "Hepatitis B", "Vitamin C deficiency"), 1),
    (("Enhanced", "Not enhanced"), 1),
    (("x_ray.", "Myelogram", "A cyst", "None of the above"), 0),
    (("肝脏", "肺", "心脏"), 1),
    (("是", "否"), 0),
]


def check(sets: list[tuple[tuple[str, ...], int]]) -> None:
    assert min(len(ANSWERS), len(REFUSALS), len(PAIRS)) >= 20
    for name, counts in count_answers(sets).items():
        assert counts["right misread"] == counts["wrong misread"] == 0, name
        if "lenient" not in name:
            assert counts["right unread"] == 0, name
    for counts in count_others(sets):
        assert counts.total() == 0, counts.most_common(3)


def test_no_phrasing_is_misread() -> None:
    check(SETS)
    lines = "\n".join(report(SETS))
    assert lines.count("\n|") > 60
