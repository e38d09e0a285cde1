"""The whole audit: on phantoms, on files made here, on the papers' own files, and as a command."""

import json
import os
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from osler.audit.blind import BASELINES
from osler.audit.findings import Audit
from osler.auditing import AuditOptions, audit, parse_gates
from osler.cli import main
from osler.config import load_config
from osler.errors import ConfigError, DataError
from osler.reporting.audit_page import render_audit_page, verdict

PHANTOM = ("--data.reader=phantom", "--data.train.limit=400", "--data.test.limit=160")


def run(*arguments: str, options: AuditOptions | None = None) -> Audit:
    return audit(load_config(None, arguments).data, options)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Four questions on three images, one of which is in both splits and one a copy under another name; the lower-case option is right."""
    rows = [
        ("train", "a.png", "train"),
        ("train", "b.png", "train"),
        ("test", "a.png", "test"),
        ("test", "c.png", "test"),
    ]
    for number, name in enumerate(("a.png", "b.png")):
        Image.effect_noise((64, 64), 60 + 40 * number).save(tmp_path / name)
    (tmp_path / "c.png").write_bytes((tmp_path / "b.png").read_bytes())
    for split in ("train", "test"):
        lines = [
            json.dumps(
                {
                    "id": f"{split}-{number}",
                    "image": name,
                    "question": f"Question {number} of {split}?",
                    "choices": ["Liver", "spleen"],
                    "target": "B",
                    "modality": "ct",
                }
            )
            for number, (part, name, _) in enumerate(rows)
            if part == split
        ]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    return tmp_path


def arguments_of(folder: Path) -> tuple[str, ...]:
    return ("--data.reader=jsonl", f"--data.root={folder}")


@cache
def phantom() -> Audit:
    return run(*PHANTOM)


def test_phantoms_give_nothing_away() -> None:
    found = phantom()
    above, total = found.main.count_above_chance()
    assert total == 8 * len(BASELINES)
    assert above <= 6  # luck alone gives 1.8
    assert "at chance" in verdict(found.main)
    assert all(leak.shared == 0 for matrix in found.main.leaks.values() for cells in matrix.values() for leak in cells.values())
    assert found.reasons == ()


def test_json_has_every_baseline_and_leak_for_every_pair() -> None:
    report = json.loads(json.dumps(phantom().to_json()))
    domains = {*report["rows"]["train"]}
    for part, names in (("blind", set(BASELINES)), ("leaks", {"same_row", "same_image", "same_case"})):
        assert set(report[part]) == names
        for matrix in report[part].values():
            assert set(matrix) == domains
            assert all(0 <= cells[name] <= 1 for cells in matrix.values() for name in domains)
    assert set(report["by_axis"]) == {"modality", "question_type"}
    assert report["by_axis"]["modality"]["blind"] == report["blind"]


@pytest.mark.parametrize(
    ("look", "shared", "kinds"),
    [("paths", 1, {"same_image"}), ("pixels", 2, {"same_image", "near_duplicate"}), ("auto", 2, {"same_image", "near_duplicate"})],
)
def test_copies_are_found_by_bytes(written: Path, look: Any, shared: int, kinds: set[str]) -> None:
    found = run(*arguments_of(written), options=AuditOptions(images=look))
    assert found.shared_images.shared == shared
    assert {kind for kind, matrix in found.main.leaks.items() if matrix["ct"]["ct"].shared} == kinds


def test_reasons_name_the_gate(written: Path) -> None:
    found = run(*arguments_of(written), options=AuditOptions(max_shortcut=0.0))
    assert {reason.split(":")[0] for reason in found.failures(("leak",))} == {"leak"}
    assert found.failures(()) == ()
    assert found.main.own("lower_case", "ct").value == 1.0


def test_images_that_are_not_at_hand_are_compared_by_path(written: Path) -> None:
    (written / "b.png").unlink()
    found = run(*arguments_of(written))
    assert found.images == "by path"
    assert any("not at hand" in note for note in found.notes)
    forced = run(*arguments_of(written), options=AuditOptions(images="pixels"))
    assert any("cannot be read" in note for note in forced.notes)


@pytest.mark.parametrize(("text", "gates"), [(None, ()), ("leak", ("leak",)), ("shortcut, leak", ("shortcut", "leak"))])
def test_gates(text: str | None, gates: tuple[str, ...]) -> None:
    assert parse_gates(text) == gates


@pytest.mark.parametrize("text", ["", ",", "leaks", "leak;shortcut"])
def test_gates_that_do_not_exist(text: str) -> None:
    with pytest.raises(ConfigError, match="leak"):
        parse_gates(text)


@pytest.mark.parametrize(
    "options",
    [AuditOptions(max_leak=-0.1), AuditOptions(max_shortcut=2.0), AuditOptions(max_distance=99), AuditOptions(max_leak=float("nan"))],
)
def test_options_out_of_range(options: AuditOptions) -> None:
    with pytest.raises(ConfigError):
        run(*PHANTOM, options=options)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--data.reader=nothing",), ConfigError),
        (("--data.reader=slake",), ConfigError),
        (("--data.reader=med_r1", "--data.root=/nowhere"), DataError),
        (("--data.reader=phantom", "--data.axis=sideways"), ConfigError),
        ((*PHANTOM, "--data.train.limit=8", "--data.test.split=holdout"), ConfigError),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        run(*arguments)
    assert "\n" not in str(caught.value)


def test_command_ends_with_one_json_line(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = written / "audit.html"
    code = main(["audit", *arguments_of(written), "--json", "--out", str(page), "--fail-on", "leak"])
    out = capsys.readouterr()
    report = json.loads(out.out)
    assert code == report["exit_code"] == 1
    assert report["failures"]
    assert all(reason.startswith("leak: ") for reason in report["failures"])
    assert report["leaks"]["same_image"]["ct"]["ct"] == 1.0
    assert "Answered blind" in out.err
    assert page.is_file()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("--fail-on", "leak,shortcut"), 0), (("--fail-on", "leaks"), 2), (("--max-leak", "7"), 2), (("--distance", "-1"), 2)],
)
def test_exit_codes(arguments: tuple[str, ...], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", *PHANTOM, *arguments]) == code
    assert (len(capsys.readouterr().err.splitlines()) == 1) is (code == 2)


GOLDS = ("cyst", "tumour", "abscess", "haematoma", "calcification")


@pytest.fixture
def giveaways(tmp_path: Path) -> Path:
    """CT in both splits and MRI in test alone: distractors that are never right, a yes-no question, and MRI's one gold."""
    rows = [
        *((split, "ct", (gold, "x", "y", "z")) for split in ("train", "test") for gold in GOLDS),
        ("test", "ct", ("yes", "no")),
        ("test", "mri", ("cyst", "x")),
    ]
    for split in ("train", "test"):
        lines = [
            {
                "id": f"{split}-{number}",
                "image": f"{number}.png",
                "question": "What?",
                "choices": choices,
                "target": "A",
                "modality": modality,
            }
            for number, (part, modality, choices) in enumerate(rows)
            if part == split
        ]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("ct.questions", 6),
        ("ct.chance", (5 / 4 + 1 / 2) / 6),
        ("ct.original", 5.5 / 6),  # no training question tells yes from no
        ("ct.counts", {"redrawn": 5, "yes_no": 1}),
        ("mri.questions", 1),
        ("mri.original", None),
        ("mri.redrawn", None),
        ("mri.redrawn_only", None),
        ("mri.counts", {"too_few_golds": 1}),
    ],
)
def test_redrawn_questions(giveaways: Path, where: str, value: Any) -> None:
    found = run(*arguments_of(giveaways), options=AuditOptions(redrawn=True)).to_json()["items"]
    assert list(found) == ["ct", "mri"]
    assert found["ct"]["redrawn"] < found["ct"]["original"]
    assert at(found, where) == (pytest.approx(value) if isinstance(value, float) else value)


@pytest.mark.parametrize(("asked", "has_table"), [(("--redrawn",), True), ((), False)])
def test_redrawn_questions_have_a_table(
    giveaways: Path, asked: tuple[str, ...], has_table: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    page = giveaways / "audit.html"
    assert main(["audit", *arguments_of(giveaways), *asked, "--json", "--out", str(page)]) == 0
    out, html = capsys.readouterr(), page.read_text()
    assert (set(json.loads(out.out)["items"]) == {"ct", "mri"}) is has_table
    for text in (out.err, html):
        assert ("1 too few other right answers" in text) is has_table
        assert ("on redrawn questions, by modality" in text) is has_table
    assert ('<tr><th scope="row">MRI</th><td>1</td><td>50.0</td><td>–</td><td>–</td><td>–</td><td>0</td><td>1</td>' in html) is has_table
    collector = Collector()
    collector.feed(html)
    assert collector.open == []


def test_open_questions_have_nothing_to_redraw(written: Path) -> None:
    for split in ("train", "test"):
        (written / f"{split}.jsonl").write_text(json.dumps({"id": "1", "image": "a.png", "question": "What?", "target": "cyst"}))
    found = run(*arguments_of(written), options=AuditOptions(redrawn=True))
    assert found.items == ()
    assert any("no distractors were redrawn" in note for note in found.notes)


def test_redrawn_questions_are_not_redrawn_again() -> None:
    with pytest.raises(ConfigError, match="original"):
        run(*PHANTOM, "--data.distractors=redrawn", options=AuditOptions(redrawn=True))


class Collector(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_needs_no_other_file(written: Path) -> None:
    lines = (written / "test.jsonl").read_text().replace("spleen", "<script>spleen")
    (written / "test.jsonl").write_text(lines)
    html = render_audit_page(run(*arguments_of(written)))
    collector = Collector()
    collector.feed(html)
    assert collector.open == []
    assert all(link.startswith("#") for link in collector.links)
    assert "<script" not in html
    assert all(baseline.title in html for baseline in BASELINES.values())


@cache
def published() -> dict[str, Any]:
    folder = os.environ.get("OSLER_TEST_DATA")
    if not folder:
        pytest.skip("OSLER_TEST_DATA does not name the folder of the annotation files")
    root = Path(folder) / "omnimedvqa_splits"
    return run("--data.reader=med_r1", f"--data.root={root}", options=AuditOptions(redrawn=True)).to_json()


def at(report: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        report = report[key]
    return report


# Per cent, as measured on the papers' own files. MRI's and Disease Diagnosis's train files are absent there.
@pytest.mark.parametrize(
    ("where", "percent"),
    [
        ("blind.option_prior.ct.ct", 99.0),
        ("blind.option_prior.xray.xray", 94.6),
        ("blind.option_prior.ultrasound.ultrasound", 83.4),
        ("blind.option_prior.dermoscopy.dermoscopy", 95.1),
        ("blind.option_prior.fundus.fundus", 94.9),
        ("blind.option_prior.oct.oct", 100.0),
        ("blind.option_prior.microscopy.microscopy", 98.6),
        ("blind.lower_case.ultrasound.ultrasound", 93.3),
        ("recovered.mri.option_prior", 99.7),
        ("by_axis.question_type.blind.option_prior.anatomy_identification.anatomy_identification", 81.1),
        ("by_axis.question_type.blind.option_prior.lesion_grading.lesion_grading", 96.1),
        ("by_axis.question_type.blind.option_prior.modality_recognition.modality_recognition", 95.0),
        ("by_axis.question_type.blind.option_prior.other_biological_attributes.other_biological_attributes", 100.0),
        ("by_axis.question_type.recovered.disease_diagnosis.option_prior", 98.3),
        ("leaks.same_image.xray.xray", 32.6),
        ("leaks.same_image.oct.oct", 29.8),
        ("leaks.same_image.microscopy.microscopy", 27.7),
        ("leaks.same_image.dermoscopy.dermoscopy", 18.5),
        ("leaks.same_image.ct.ct", 13.4),
        ("leaks.same_image.fundus.fundus", 9.7),
        ("leaks.same_image.ultrasound.ultrasound", 2.1),
        ("cases_by_source.Chest CT Scan.share", 98.3),
        ("cases_by_source.BreakHis.share", 94.9),
        ("cases_by_source.Mura.share", 78.6),
        ("across_axes.modality.question_type", 80.4),
        ("items.ct.original", 99.0),
        ("items.ct.redrawn", 58.9),
        ("items.oct.original", 100.0),
        ("items.oct.redrawn", 36.1),
    ],
)
def test_published_files(where: str, percent: float) -> None:
    assert 100 * at(published(), where) == pytest.approx(percent, abs=0.06)


@pytest.mark.parametrize(
    "where", ["blind.option_prior.mri.mri", "leaks.same_image.mri.mri", "leaks.same_row.mri.ct", "items.mri.original", "items.mri.redrawn"]
)
def test_an_absent_train_file_has_no_value(where: str) -> None:
    assert at(published(), where) is None


@pytest.mark.parametrize(
    ("reader", "arguments", "shared", "total"),
    [
        ("vqa_rad", (), 142, 143),
        ("slake", ("--data.train.language=en", "--data.test.language=zh"), 70, 84),
        ("slake", ("--data.train.language=en", "--data.test.language=en", "--data.test.split=validation"), 0, 96),
    ],
)
def test_images_of_the_official_splits(reader: str, arguments: tuple[str, ...], shared: int, total: int) -> None:
    folder = os.environ.get("OSLER_TEST_DATA")
    if not folder:
        pytest.skip("OSLER_TEST_DATA does not name the folder of the datasets")
    found = run(
        f"--data.reader={reader}", f"--data.root={Path(folder) / reader}", *arguments, options=AuditOptions(images="paths")
    ).shared_images
    assert (found.shared, found.total) == (shared, total)
