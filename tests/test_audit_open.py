"""The audit of open questions: blind baselines for every domain, in the page, the JSON and on the terminal."""

import json
from pathlib import Path

import pytest
from small_audits import run

from osler.audits.findings import read_audit, save_audit
from osler.audits.run import AuditOptions
from osler.cli.main import main
from osler.errors import DataError
from osler.reports.audit_page import build_audit, verdict
from osler.reports.report import render_audit_page

TRAIN = [
    ("Which organ?", "Liver", "ct"),
    ("Which organ?", "the liver", "ct"),
    ("Which organ?", "Brain", "mri"),
    ("Which side?", "Left", "mri"),
]
TEST = [
    ("Which organ?", "It is the liver.", "ct"),
    ("Which organ is it?", "Small liver", "ct"),
    ("Which organ?", "Brain", "mri"),
    ("On which side?", "Left", "mri"),
]
CLOSED = ("Is it large?", "A", "ct")


def write(folder: Path, *, has_closed: bool = False) -> tuple[str, ...]:
    for split, rows in (("train", TRAIN), ("test", TEST)):
        lines = [
            {"id": f"{split}-{number}", "image": f"{split}.png", "question": question, "target": target, "modality": modality}
            for number, (question, target, modality) in enumerate(rows)
        ]
        if has_closed:
            question, target, modality = CLOSED
            options = {"question": question, "target": target, "modality": modality, "choices": ["yes", "no"]}
            lines.append({"id": f"{split}-closed", "image": f"{split}.png", **options})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ("--data.reader=jsonl", f"--data.root={folder}")


def test_every_domain_has_every_blind_baseline(tmp_path: Path) -> None:
    found = run(*write(tmp_path), options=AuditOptions(images="paths"))
    axis = found.main
    assert axis.open_questions == {"ct": 2, "mri": 2, "all": 4}
    cells = {name: {test: (shares.right, shares.undecided) for test, shares in grid[test].items() if shares} for name, grid, test in [
        (name, grid, "all") for name, grid in axis.open_blind.items()
    ]}  # fmt: skip
    assert cells["option_prior"] == {"ct": (0.5, 0.5), "mri": (0.0, 0.0), "all": (0.25, 0.25)}
    assert cells["nearest_question"] == {"ct": (0.5, 0.5), "mri": (0.5, 0.0), "all": (0.5, 0.25)}
    assert axis.open_in_domain("nearest_question", "mri").value == 1.0  # fitted on questions about MRI only
    best = axis.best_open("all")
    assert best is not None
    assert (best[0], best[1].value) == ("nearest_question", 0.5)
    assert axis.best("all") is None


def test_the_page_has_open_questions_in_place_of_closed_ones(tmp_path: Path) -> None:
    found = run(*write(tmp_path), options=AuditOptions(images="paths"))
    page = build_audit(found)
    assert page.verdict.startswith("Of 4 open questions the nearest question answers 50.0 [")
    html = render_audit_page(found)
    assert "Open questions answered blind, by modality" in html
    assert "undecided 25.0" in html
    assert "Answered blind, by modality" not in html
    with_closed = run(*write(tmp_path, has_closed=True), options=AuditOptions(images="paths"))
    html = render_audit_page(with_closed)
    assert "Answered blind, by modality" in html
    assert "Open questions answered blind, by modality" in html
    assert verdict(with_closed.main) in build_audit(with_closed).verdict


def test_the_json_is_read_again_and_checked(tmp_path: Path) -> None:
    found = run(*write(tmp_path), options=AuditOptions(images="paths"))
    path = tmp_path / "audit.json"
    save_audit(found.to_json(), path)
    assert read_audit(path) == found
    content = json.loads(path.read_text())
    assert content["best_open"]["all"]["baseline"] == "nearest_question"
    assert content["open_blind"]["question_prior"]["mri"]["ct"] == {"right": 0.0, "undecided": 0.0}
    del content["by_axis"]["modality"]["open_blind"]["nearest_question"]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="holds no audit"):
        read_audit(path)


def test_the_command_prints_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", *write(tmp_path), "--images", "paths"]) == 0
    text = capsys.readouterr().out
    assert "Nearest question | 50.0 | 100.0 | 50.0" in text
    assert "Option prior:" not in text
    assert main(["audit", *write(tmp_path, has_closed=True), "--images", "paths", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["open_questions"]["all"] == 4
