"""Whether a policy used the image: one decision from every probe on a page, so that no sentence denies what another part shows."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from small_records import answers
from test_image_gain import ask

from osler.evaluation.records import append_records
from osler.reports.image_use import describe_uses, image_uses
from osler.reports.load_runs import Evaluation, label_title, load_runs
from osler.reports.looking import look_rows
from osler.reports.make import write_report
from osler.reports.tables import describe_baselines, gain_table
from osler.types import Record

MANY = 60
ALL, HALF, NONE = ([float(number < share * MANY) for number in range(MANY)] for share in (1.0, 0.5, 0.0))


def altered(name: str, rights: Sequence[float]) -> tuple[Record, ...]:
    return tuple(replace(one, ablation=name, own_image_uris=one.image_uris) for one in answers(rights))


def policy(rights: Sequence[float], label: str = "grpo", run: str = "", **probes: Sequence[float]) -> Evaluation:
    changed = {name: altered(name, part) for name, part in probes.items()}
    return Evaluation(label=label, title=label_title(label), records=tuple(answers(rights)), altered=changed, run=run)


BLIND = Evaluation(label="blind", title="Blind", records=tuple(replace(one, policy="option prior") for one in answers(HALF)))
BLIND_WINS = replace(BLIND, records=tuple(replace(one, policy="option prior") for one in answers(ALL)))
DENIED = "Nothing here shows that GRPO used the image: "
NOT_ASKED = "it was not asked with other images (--ablation)."
SAID: list[tuple[str, list[Evaluation], tuple[str, ...]]] = [
    ("nothing", [policy(ALL)], (f"{DENIED}without a blind baseline there is no image gain; {NOT_ASKED}",)),
    ("gain", [BLIND, policy(ALL)], ("GRPO used the image: the image gain lies above 0 on MRI.",)),
    ("no gain", [BLIND_WINS, policy(HALF)], (f"{DENIED}no image gain lies above 0; {NOT_ASKED}",)),
    ("blank alone", [policy(ALL, blank=NONE)], ("GRPO used the image: answers change with other images (blank).",)),
    (
        "blank beside no gain",
        [BLIND_WINS, policy(HALF, blank=NONE)],
        ("GRPO used the image: answers change with other images (blank).",),
    ),
    (
        "both",
        [BLIND, policy(ALL, blank=NONE, swap_within=ALL)],
        ("GRPO used the image: the image gain lies above 0 on MRI and answers change with other images (blank).",),
    ),
    (
        "a gain without looking",
        [BLIND, policy(ALL, blank=ALL)],
        (f"{DENIED}the image gain lies above 0 on MRI, which need not come from the image; answers stay the same with other images.",),
    ),
    (
        "few questions",
        [policy(ALL[:5], blank=ALL[:5])],
        (f"{DENIED}without a blind baseline there is no image gain; with other images it is not clear.",),
    ),
    (
        "two policies of three",
        [policy(ALL, "zero_shot"), policy(ALL, "sft"), policy(ALL, blank=NONE)],
        (
            f"Nothing here shows that Zero-shot and SFT used the image: without a blind baseline there is no image gain; {NOT_ASKED}",
            "GRPO used the image: answers change with other images (blank).",
        ),
    ),
    ("blind alone", [BLIND], ()),
]


@pytest.mark.parametrize(("rows", "said"), [pytest.param(*case[1:], id=case[0]) for case in SAID])
def test_the_sentence_is_that_of_every_probe(rows: list[Evaluation], said: tuple[str, ...]) -> None:
    assert describe_uses(image_uses(rows, gain_table(rows), look_rows(rows))) == said


NAMED = [("Case", "Case: how an option is capitalised."), ("Blind", ""), ("Nearest question", "Nearest question: the most frequent answer")]


@pytest.mark.parametrize(("title", "says"), NAMED)
def test_a_baseline_is_explained(title: str, says: str) -> None:
    credit = {title: {one.sample_id: 0.5 for one in answers(ALL)}}
    table = gain_table([replace(policy(ALL), blind=credit)])
    assert table is not None
    assert table.rows[0].cells[0].baseline == title
    assert describe_baselines(table).startswith(says)
    assert bool(describe_baselines(table)) == bool(says)


# Outcomes of eight questions with images and blank ones at a step, what is said of the trained policy, and of the untrained one.
WATCHED = [("p" * 8, "GRPO used the image: in its training the accuracy"), ("b" * 8, "; nor does the image gain that its training logged.")]


@pytest.mark.parametrize(("outcomes", "said"), WATCHED)
def test_the_page_says_what_the_training_showed(tmp_path: Path, outcomes: str, said: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text("".join(json.dumps(ask(step, outcomes)) + "\n" for step in range(1, 7)))
    for label in ("zero_shot", "grpo"):
        append_records(run / "records" / f"{label}.jsonl", answers(HALF))
    write_report([run], tmp_path / "page.html", find_image=lambda _: None)
    page = re.sub(r"<[^>]+>", "", (tmp_path / "page.html").read_text())
    assert said in page
    assert "Nothing here shows that Zero-shot used the image" in page
    assert ("Nothing here shows that GRPO used the image" in page) == (outcomes[0] == "b")
    assert [row.run for row in load_runs([run])[0].evaluations] == ["run", "run"]


def test_no_other_sentence_of_the_page_denies_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for label, records in (("blind", BLIND_WINS.records), ("grpo", answers(HALF)), ("grpo.blank", altered("blank", NONE))):
        append_records(run / "records" / f"{label}.jsonl", records)
    write_report([run], tmp_path / "page.html", find_image=lambda _: None)
    page = re.sub(r"<[^>]+>", "", (tmp_path / "page.html").read_text())
    assert "GRPO used the image: answers change with other images (blank)." in page
    assert "nothing shows" not in page.lower()
    assert "nothing here shows" not in page.lower()
