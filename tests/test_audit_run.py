"""The whole audit: on phantoms, on files made here, on the papers' own files, and as a command."""

import json
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from small_audits import at, run

from osler.audits.baselines import BASELINES
from osler.audits.findings import Audit, read_audit, save_audit
from osler.audits.quality import MAX_LISTED
from osler.audits.run import AuditOptions, parse_gates
from osler.cli.main import main
from osler.errors import ConfigError, DataError
from osler.reports.audit_page import verdict
from osler.reports.report import render_audit_page

PHANTOM = ("--data.reader=phantom", "--data.train.limit=400", "--data.test.limit=160")


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
    assert all(share == 0 for grid in found.main.leaks.values() for cells in grid.values() for share in cells.values())
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
    assert found.images.num_shared == shared
    assert {kind for kind, matrix in found.main.leaks.items() if matrix["ct"]["ct"]} == kinds


@pytest.mark.parametrize(("look", "kinds"), [("paths", {"same_image"}), ("pixels", {"same_image", "near_duplicate", "turned_copy"})])
def test_turned_copies_are_counted_apart(written: Path, look: Any, kinds: set[str]) -> None:
    with Image.open(written / "b.png") as picture:  # the other test image is a train image too
        picture.transpose(Image.Transpose.TRANSVERSE).save(written / "c.png")
    found = run(*arguments_of(written), options=AuditOptions(images=look))
    assert {kind for kind, matrix in found.main.leaks.items() if matrix["ct"]["ct"]} == kinds
    assert "turned_copy" not in kinds or found.main.leaks["turned_copy"]["ct"]["ct"] == 0.5
    reasons = [reason for reason in found.failures(("leak",)) if "turned or mirrored copy" in reason]
    assert len(reasons) == ("turned_copy" in kinds)
    assert any("cropped copies are not looked for" in note for note in found.notes) == ("turned_copy" in kinds)
    assert ("A turned or mirrored copy of an image" in render_audit_page(found)) == ("turned_copy" in kinds)


def test_reasons_name_the_gate(written: Path) -> None:
    found = run(*arguments_of(written), options=AuditOptions(max_shortcut=0.0))
    assert {reason.split(":")[0] for reason in found.failures(("leak",))} == {"leak"}
    assert found.failures(()) == ()
    assert found.main.in_domain("lower_case", "ct").value == 1.0


def test_images_that_are_not_at_hand_are_compared_by_path(written: Path) -> None:
    (written / "b.png").unlink()
    found = run(*arguments_of(written))
    assert found.images.compared == "by path"
    assert any("not at hand" in note for note in found.notes)
    forced = run(*arguments_of(written), options=AuditOptions(images="pixels"))
    assert any("cannot be read" in note for note in forced.notes)


def test_images_without_a_picture_are_counted(written: Path) -> None:
    (written / "a.png").write_bytes((written / "a.png").read_bytes()[:60])
    found = run(*arguments_of(written), options=AuditOptions(images="pixels"))
    assert (
        f"1 of {len([*written.glob('*.png')])} images have bytes but no picture: copies of them are found by their bytes alone."
        in found.notes
    )


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


def test_a_saved_audit_gives_the_same_page(giveaways: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, saved, printed = (giveaways / name for name in ("audit.html", "audit.json", "printed.txt"))
    asked = (*arguments_of(giveaways), "--redrawn", "--json", "--fail-on", "leak,shortcut")
    assert main(["audit", *asked, "--out", str(page), "--save", str(saved)]) == 1
    printed.write_text("anything before it\n" + capsys.readouterr().out)
    for path in (saved, printed):
        assert render_audit_page(read_audit(path)) == page.read_text()
        assert read_audit(path).to_json().items() <= json.loads(saved.read_text()).items()


def test_a_saved_audit_keeps_counts_beyond_the_ids_it_lists(written: Path, tmp_path: Path) -> None:
    rows = [
        {"id": f"{number}", "image": "a.png", "question": f"{number}?", "choices": ["CT", "CAT scan"], "target": "A", "modality": "ct"}
        for number in range(MAX_LISTED + 3)
    ]
    (written / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = run(*arguments_of(written))
    save_audit(found.to_json(), tmp_path / "audit.json")
    again = read_audit(tmp_path / "audit.json")
    fault = again.quality.synonymous_options
    assert (fault.num_rows, len(fault.ids)) == (MAX_LISTED + 3, MAX_LISTED)
    assert render_audit_page(again) == render_audit_page(found)


DAMAGE: list[tuple[str, Any]] = [
    ("title", None),
    ("axis", "organ"),
    ("by_axis.modality.chance.ct", 7),
    ("by_axis.modality.chance.ct", "0.5"),
    ("by_axis.modality.blind.option_prior.ct.ct", float("nan")),
    ("by_axis.modality.blind.longest", None),
    ("by_axis.modality.questions.ct", -1),
    ("by_axis.modality.questions.ct", 0),
    ("by_axis.modality.leaks.same_row.ct", []),
    ("quality.letters.2.questions", 0),
    ("items.ct.counts", {"guessed": 1}),
    ("items.ct.difference.low", -3),
    ("by_axis.modality.rows.recovered", None),  # a file of an earlier version
    ("across_axes", {"modality": {"organ": 0.5}}),
    ("images", 4),
    ("cases_by_source", [1]),
]


@pytest.mark.parametrize(("where", "value"), DAMAGE, ids=[f"{where}={value}" for where, value in DAMAGE])
def test_a_damaged_audit_is_one_line(giveaways: Path, where: str, value: Any) -> None:
    report = run(*arguments_of(giveaways), options=AuditOptions(redrawn=True)).to_json()
    *parents, key = where.split(".")
    found = at(report, ".".join(parents)) if parents else report
    if value is None:
        del found[key]
    else:
        found[key] = value
    path = giveaways / "audit.json"
    path.write_text(json.dumps(report))
    with pytest.raises(DataError, match="holds no audit") as caught:
        read_audit(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"3", b"not json", b"\xff\xfe", b"[" * 100_000, b'{"a": 1}\n\n'])
def test_no_audit_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match="holds no audit"):
        read_audit(tmp_path / "a.json")


def test_an_audit_that_cannot_be_saved_is_one_line(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", *arguments_of(written), "--save", str(written / "a.png" / "audit.json")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("osler:")]
    assert len(lines) == 1
    assert "--save" in lines[0]


def test_neither_workers_nor_a_cache_change_an_audit(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cached = ("--cache", str(written / "cache"))
    reports = []
    for arguments in ((), ("--workers", "1"), ("--workers", "3", *cached), cached):
        assert main(["audit", *arguments_of(written), "--images", "pixels", "--json", *arguments]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert all(report == reports[0] for report in reports)
    assert reports[0]["leaks"]["same_image"]["ct"]["ct"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--workers", "0"), 2),
        (("--fail-on", "leak,shortcut"), 0),
        (("--fail-on", "leaks"), 2),
        (("--max-leak", "7"), 2),
        (("--distance", "-1"), 2),
    ],
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
        ("ct.rows", 6),
        ("ct.redrawn_rows", 5),
        ("ct.clusters", 5),
        ("ct.chance", 1 / 4),
        ("ct.original.value", 1.0),
        ("ct.original.high", 1.0),
        ("ct.all_rows.original", 5.5 / 6),  # no training question tells yes from no
        ("ct.counts", {"redrawn": 5, "yes_no": 1}),
        ("mri.rows", 1),
        ("mri.redrawn_rows", 0),
        ("mri.chance", None),
        ("mri.original.value", None),
        ("mri.redrawn.low", None),
        ("mri.difference.value", None),
        ("mri.all_rows.redrawn", None),
        ("mri.counts", {"too_few_golds": 1}),
    ],
)
def test_redrawn_questions(giveaways: Path, where: str, value: Any) -> None:
    found = run(*arguments_of(giveaways), options=AuditOptions(redrawn=True)).to_json()["items"]
    assert list(found) == ["ct", "mri"]
    assert found["ct"]["difference"]["value"] == pytest.approx(found["ct"]["redrawn"]["value"] - found["ct"]["original"]["value"])
    assert found["ct"]["difference"]["high"] < 0
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
    assert (
        '<tr><th scope="row">MRI</th><td>1</td><td>0</td><td>–</td><td>–</td><td>–</td><td>–</td><td>–</td><td>–</td>' in html
    ) is has_table
    collector = Collector()
    collector.feed(html)
    assert collector.open == []


def test_open_questions_have_nothing_to_redraw(written: Path) -> None:
    for split in ("train", "test"):
        (written / f"{split}.jsonl").write_text(json.dumps({"id": "1", "image": "a.png", "question": "What?", "target": "cyst"}))
    found = run(*arguments_of(written), options=AuditOptions(redrawn=True))
    assert found.items == {}
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
