"""Altered questions in a report: they have a section of their own and count in no table of plain answers."""

from __future__ import annotations

import html as markup
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from test_report import answers, report_of, write_run

from osler.errors import DataError
from osler.evaluation.ablations import Ablation
from osler.evaluation.compare import TITLES, alteration_of, compare
from osler.metrics import paired_difference, rotation_id
from osler.reports.load_runs import collect_evaluations, load_runs
from osler.reports.looking import look_figure, look_notes, look_rows
from osler.types import Record

PLAIN = answers(6, 9)


def altered(name: str, correct: int, total: int = 9, **changes: str) -> list[Record]:
    """The same questions under an ablation, all of them shown one image."""
    return [
        replace(row, ablation=name, own_image_uris=row.image_uris, image_uris=("donor.png",)) for row in answers(correct, total, **changes)
    ]


def rotated(correct: Sequence[int]) -> list[Record]:
    """The questions once for each rotation, `correct` of each modality right in it."""
    return [
        replace(row, sample_id=rotation_id(row.sample_id, turn), rotation=turn)
        for turn, number in enumerate(correct)
        for row in answers(number, 9)
    ]


def looked(html: str) -> str:
    """The text of the section, without its figure."""
    section = html[html.index('<section id="looked"') :].split("</section>")[0]
    return " ".join(markup.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", "", section, flags=re.DOTALL))).split())


def outside(html: str) -> str:
    """The page without the section and its link, and without the sentence that says of every probe whether it shows use of the image."""
    rest = re.sub(r'<section id="looked".*?</section>', "", html, flags=re.DOTALL)
    rest, num_sentences = re.subn(r"<li>[^<]* used the image: [^<]*</li>", "", rest)
    assert num_sentences == 1
    return "\n".join(line for line in rest.replace('<li><a href="#looked">Did it look?</a></li>', "").splitlines() if line)


ALL = {
    "grpo": PLAIN,
    "grpo.blank": altered("blank", 2),
    "grpo.swap_within": altered("swap_within", 1),
    "grpo.circular": rotated([6, 3]),
    "grpo.reasoning_cut": altered("reasoning_cut", 6),
}


@pytest.mark.integration
def test_altered_questions_change_no_other_section(tmp_path: Path) -> None:
    plain = report_of(tmp_path / "plain", {"grpo": PLAIN})
    assert "Did it look?" not in plain
    assert outside(report_of(tmp_path / "all", ALL)) == outside(plain)


@pytest.mark.integration
def test_the_section_by_hand(tmp_path: Path) -> None:
    text = looked(report_of(tmp_path, ALL))
    change = paired_difference(PLAIN, altered("blank", 2), "subject")
    assert (change.gained, change.lost, change.num_clusters) == (0, 8, 18)
    blank = text[text.index("Blank 18") : text.index("Swapped, same modality")]
    assert "22.2 [9.0, 45.2]" in blank
    assert "−44.4 [" in blank
    same = compare("blank", PLAIN, altered("blank", 2)).same_answer
    assert same is not None
    # 12 right answers and the 2 wrong ones that were read (of three kinds of failure) could stay: 4 right and both wrong do.
    assert (same.correct, same.total) == (6, 14)
    assert str(same) in blank
    assert re.search(r"GRPO 18 66\.7 \[43\.7, 83\.7\] 50\.0 \[.{10}\] 33\.3 \[16\.3, 56\.3\] 25\.0", text)  # two options: 1/4 by guessing
    assert text.index("Cut 18 66.7") > text.index("Behind other reasoning")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("evaluations", "present", "absent"),
    [
        ({"grpo": PLAIN, "grpo.blank": altered("blank", 2)}, ["Blank 18"], ["Noise", "rotation", "Behind other reasoning"]),
        ({"grpo": PLAIN, "grpo.circular": rotated([6, 3])}, ["Right in every rotation"], ["Without the image", "Blank"]),
        ({"grpo": PLAIN, "grpo.circular": rotated([6])}, None, []),  # a rotation is missing everywhere: nothing is whole
        ({"grpo.noise": altered("noise", 2)}, ["GRPO As it is – – Noise 18 22.2 [9.0, 45.2] – – –"], []),
        ({"grpo": PLAIN, "grpo.noise": []}, None, []),
        ({"my.noise": PLAIN}, None, []),  # plain answers under a label that ends like an alteration
        ({"grpo": PLAIN[:9], "grpo.blank": altered("blank", 2)[9:]}, ["Blank 9 22.2", "– – – –"], ["nan"]),  # no question in common
        (
            {"grpo": PLAIN, "grpo.blank": altered("blank", 2, policy="other")},
            ["another policy or strategy answered under blank", "Blank 18 22.2 [9.0, 45.2] – – –"],
            ["−44.4"],
        ),
        ({"blind": answers(6, 9, policy="option prior")}, None, []),
    ],
)
def test_what_is_missing_is_absent_or_a_dash(
    tmp_path: Path, evaluations: Mapping[str, Sequence[Record]], present: list[str] | None, absent: list[str]
) -> None:
    html = report_of(tmp_path, evaluations)
    assert ('id="looked"' in html) == (present is not None)
    text = looked(html) if present is not None else ""
    for part in present or []:
        assert part in text
    for part in absent:
        assert part not in text


def test_altered_answers_stand_with_their_label(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, {**ALL, "sft": PLAIN} if name == "a" else {"grpo": PLAIN, "grpo.noise": altered("noise", 2)})
    rows = collect_evaluations(load_runs([tmp_path / "a", tmp_path / "b"]))
    found = {row.label: sorted(row.altered) for row in rows}  # the same plain answers in two runs are one row
    assert found == {"sft": [], "grpo": ["blank", "circular", "noise", "reasoning_cut", "swap_within"]}
    assert [alteration_of(records[0]) for records in (ALL["grpo"], ALL["grpo.blank"], ALL["grpo.circular"])] == [None, "blank", "circular"]
    twice = write_run(tmp_path / "twice", {"grpo.blank": [*altered("blank", 2), *altered("blank", 2)]})
    with pytest.raises(DataError, match=r"grpo\.blank\.jsonl holds the sample .* more than once"):
        load_runs([twice])


@pytest.mark.integration
def test_p_values_allow_for_the_rows_of_their_table(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {**ALL, "sft": PLAIN, "sft.noise": altered("noise", 3)})
    rows = look_rows(collect_evaluations(load_runs([tmp_path / "run"])))
    raw = [row.result.change.p_value for look in rows for row in look.images if row.result.change is not None]
    adjusted = [row.adjusted_p for look in rows for row in look.images]
    order = sorted(range(len(raw)), key=lambda place: raw[place] or 0.0)
    expected: dict[int, float] = {}
    for rank, place in enumerate(order):
        expected[place] = max([*expected.values(), min(1.0, (raw[place] or 0.0) * (len(raw) - rank))])
    assert adjusted == pytest.approx([expected[place] for place in range(len(raw))])
    assert [row.adjusted_p for look in rows for row in look.reasoning] == [1.0]


@pytest.mark.integration
def test_the_figure_has_a_bar_for_every_ablation(tmp_path: Path) -> None:
    labels = {f"grpo-{number}": answers(number, 9) for number in range(8)}
    blanks = {f"{label}.blank": altered("blank", number) for number, label in enumerate(labels)}
    write_run(tmp_path / "run", {**labels, **blanks})
    rows = look_rows(collect_evaluations(load_runs([tmp_path / "run"])))
    figure = look_figure(rows)
    assert figure is not None
    assert "GRPO 7: as it is 77.8, blank 77.8" in figure.description
    assert "GRPO 1:" not in figure.description
    assert look_notes(rows) == ("The figure shows the last 6 policies.",)
    assert look_figure([]) is None
    assert set(Ablation) <= TITLES.keys()
