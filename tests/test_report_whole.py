"""One page about audits, runs and matrices: what is on it, in which order, that parts alone look the same, and that text can be read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from small_matrices import cells, make_matrices, report_of
from small_records import answers

from osler.audits.findings import Audit
from osler.audits.run import AuditOptions, audit
from osler.cli.main import main
from osler.config import load_config
from osler.errors import DataError
from osler.evaluation.records import append_records
from osler.reports.audit_page import build_audit
from osler.reports.heat import shade, shade_difference
from osler.reports.make import sort_sources, write_report
from osler.reports.matrices import AxisMatrices, MatrixRecords, read_matrix
from osler.reports.render import keep_whole, read_glossary
from osler.reports.report import Report, render_audit_page, render_matrix_page, render_report

DOMAINS = ("ct", "mri")
PHANTOM = ("--data.reader=phantom", "--data.train.limit=64", "--data.test.limit=32")


@cache
def phantom() -> Audit:
    return audit(load_config(None, PHANTOM).data, AuditOptions(redrawn=True))


def made_up(empty: tuple[str, ...] = ()) -> AxisMatrices:
    return make_matrices(
        MatrixRecords(row="zero_shot", strategy="no_think", cells=cells(0.3, 0.3, DOMAINS, 20)),
        MatrixRecords(row="grpo", strategy="think", cells=cells(0.6, 0.4, DOMAINS, 20, empty)),
        MatrixRecords(row="grpo", strategy="no_think", cells=cells(1.0, 0.35, DOMAINS, 20, empty)),
        MatrixRecords(row="blind", strategy=None, cells=cells(0.2, 0.2, DOMAINS, 20)),
        notes=("<b>a note</b>",),
    )


def write_matrix(folder: Path, values: Any = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    found = report_of(made_up()).to_json() if values is None else values
    (folder / "matrix.json").write_text(json.dumps(found))
    return folder


def write_run(folder: Path) -> Path:
    append_records(folder / "records" / "zero_shot.jsonl", answers([1, 0, 0, 1, 0]))
    append_records(folder / "records" / "grpo.jsonl", answers([1, 1, 0, 1, 1]))
    return folder


def write_audit(path: Path) -> Path:
    path.write_text(json.dumps(phantom().to_json()))
    return path


def sections_of(html: str) -> list[str]:
    return re.findall(r'<section id="([^"]*)"', html)


def body_of(html: str, section: str) -> str:
    start = html.index(f'<section id="{section}"')
    return html[start : html.index("</section>", start)]


@pytest.mark.integration
def test_one_page_holds_everything_in_order(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / "run"), write_matrix(tmp_path / "matrix"), write_audit(tmp_path / "audit.json")]
    report = write_report(paths, tmp_path / "all.html", find_image=lambda _: None)
    html = (tmp_path / "all.html").read_text()
    assert report.kinds == "1 audit, 1 run and 1 matrix"
    assert sections_of(html) == ["glance", "audit", "summary", "question-types", "outcomes", "matrix", "examples", "setup"]
    contents = html[html.index('<nav class="toc"') : html.index("</nav>")]
    links = re.findall(r'href="#([^"]*)"', contents)
    assert [link for link in links if link in sections_of(html)] == sections_of(html)
    assert {"audit-blind", "audit-items", "audit-leaks", "matrix-modality"} <= set(links)
    assert all(f' id="{link}"' in html for link in re.findall(r'href="#([^"]*)"', html))
    ids = re.findall(r' id="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    assert html.count("ot for clinical use") == 2
    for section in sections_of(html)[1:]:
        assert 'class="intro"' in body_of(html, section)


@pytest.mark.slow
def test_sections_are_the_same_alone_and_together(tmp_path: Path) -> None:
    write_report(
        [write_audit(tmp_path / "audit.json"), write_matrix(tmp_path / "matrix"), write_run(tmp_path / "run")], tmp_path / "all.html"
    )
    html = (tmp_path / "all.html").read_text()
    assert body_of(html, "audit") == body_of(render_audit_page(phantom()), "audit")
    assert body_of(html, "matrix") == body_of(render_matrix_page(report_of(made_up())), "matrix")
    assert "toc" not in sections_of(render_audit_page(phantom()))


@pytest.mark.slow
def test_two_of_a_kind_have_names_of_their_own(tmp_path: Path) -> None:
    again = write_audit(tmp_path / "again.json")
    paths = [write_audit(tmp_path / "audit.json"), again, again, write_matrix(tmp_path / "a"), write_matrix(tmp_path / "b")]
    report = write_report(paths, tmp_path / "all.html")
    html = (tmp_path / "all.html").read_text()
    assert sections_of(html) == ["audit", "audit-2", "matrix", "matrix-2"]
    assert report.kinds == "2 audits and 2 matrices"
    ids = re.findall(r' id="([^"]*)"', html)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("empty", [(), ("mri",)])
def test_a_matrix_file_gives_back_its_figures(empty: tuple[str, ...], tmp_path: Path) -> None:
    report = report_of(made_up(empty))
    assert read_matrix(write_matrix(tmp_path, report.to_json())) == report


def forget(*path: str) -> Callable[[dict[str, Any]], None]:
    def damage(values: dict[str, Any]) -> None:
        for name in path[:-1]:
            values = values[name]
        del values[path[-1]]

    return damage


def put(value: Any, *path: str) -> Callable[[dict[str, Any]], None]:
    def damage(values: dict[str, Any]) -> None:
        for name in path[:-1]:
            values = values[name]
        values[path[-1]] = value

    return damage


MODALITY = ("axes", "modality")
DAMAGE: list[tuple[str, Callable[[dict[str, Any]], None]]] = [
    ("no recipe", forget("recipe")),
    ("no axes", forget("axes")),
    ("axes is a list", put([], "axes")),
    ("a missing cell", forget(*MODALITY, "matrices", "blind", "cells", "ct", "mri")),
    ("a negative accuracy", put(-0.5, *MODALITY, "matrices", "blind", "cells", "ct", "ct", "value")),
    ("an accuracy above 1", put(61.2, *MODALITY, "matrices", "blind", "cells", "ct", "ct", "value")),
    ("an accuracy that is a text", put("0.5", *MODALITY, "matrices", "blind", "cells", "ct", "ct", "value")),
    ("NaN", put(float("nan"), *MODALITY, "matrices", "blind", "means", "all", "value")),
    ("infinitely many questions", put(float("inf"), *MODALITY, "matrices", "blind", "cells", "ct", "ct", "questions")),
    ("an unknown row", put("ppo", *MODALITY, "matrices", "blind", "row")),
    ("a mean of no domain", forget(*MODALITY, "matrices", "blind", "train_means", "ct")),
    ("a file of an earlier version", forget(*MODALITY, "axis")),
    ("a difference of nothing", put("ppo", *MODALITY, "differences", "grpo-no_think minus grpo-think", "after")),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGE, ids=[row[0] for row in DAMAGE])
def test_a_damaged_matrix_is_one_line(name: str, damage: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    values = json.loads(json.dumps(report_of(made_up()).to_json()))
    damage(values)
    with pytest.raises(DataError, match="does not hold matrices") as caught:
        read_matrix(write_matrix(tmp_path, values))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"\xff\xfe", b"{"])
def test_no_matrix_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "matrix.json").write_bytes(content)
    with pytest.raises(DataError, match="does not hold matrices"):
        read_matrix(tmp_path)


def test_paths_are_told_apart(tmp_path: Path) -> None:
    run, matrix, saved = write_run(tmp_path / "runs" / "one"), write_matrix(tmp_path / "runs" / "two"), write_audit(tmp_path / "a.json")
    (tmp_path / "runs" / "empty").mkdir()
    for paths in ([saved, tmp_path / "runs"], [run, matrix / "matrix.json", saved, tmp_path / "runs" / ".." / "a.json", run]):
        found = sort_sources(paths)
        assert (found.audits, found.runs, found.matrices) == ((saved,), (run,), (matrix,))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone", "does not exist"),
        ("empty", "holds no run and no matrix"),
        ("notes.txt", "holds no audit"),
        ("broken", "does not hold matrices"),
    ],
)
def test_mistakes_are_one_line(name: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("remember the milk")
    write_matrix(tmp_path / "broken", {})
    good, out = write_run(tmp_path / "run"), tmp_path / "all.html"
    assert main(["report", str(good), str(tmp_path / name), "--out", str(out)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert words in lines[0]
    assert not out.exists()


@pytest.mark.integration
def test_the_command_counts_what_it_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [write_audit(tmp_path / "a.json"), write_run(tmp_path / "run"), write_matrix(tmp_path / "m")]
    assert main(["report", *map(str, paths), "--out", str(tmp_path / "all.html"), "--json"]) == 0
    out = capsys.readouterr()
    found = json.loads(out.out)
    assert (found["audits"], found["runs"], found["matrices"]) == (1, 1, 1)
    assert "1 audit, 1 run and 1 matrix" in out.err


def test_what_a_file_says_is_escaped(tmp_path: Path) -> None:
    found = report_of(made_up(), "<script>1</script>").to_json()
    values = phantom().to_json() | {"title": "<script>2</script>", "notes": ["<script>3</script>"]}
    (tmp_path / "a.json").write_text(json.dumps(values))
    write_report([tmp_path / "a.json", write_matrix(tmp_path / "m", found)], tmp_path / "all.html")
    html = (tmp_path / "all.html").read_text()
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 3
    assert "<b>a note" not in html


def luminance(colour: Sequence[float]) -> float:
    """Relative luminance, 0 to 1 (https://www.w3.org/TR/WCAG22/#dfn-relative-luminance)."""
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (part / 255 for part in colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: Sequence[float], second: Sequence[float]) -> float:
    """The contrast ratio of two colours, 1 to 21 (https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio)."""
    darker, lighter = sorted((luminance(first), luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize(
    ("first", "second", "ratio"),
    [
        ((255, 255, 255), (0, 0, 0), 21.0),
        ((118, 118, 118), (255, 255, 255), 4.54),  # the greys and the blue of the WCAG's own examples and checkers
        ((119, 119, 119), (255, 255, 255), 4.48),
        ((0, 0, 255), (255, 255, 255), 8.59),
        ((7, 7, 7), (7, 7, 7), 1.0),
    ],
)
def test_contrast(first: tuple[int, int, int], second: tuple[int, int, int], ratio: float) -> None:
    assert contrast(first, second) == contrast(second, first) == pytest.approx(ratio, abs=0.005)


STYLES = [None, *(step / 50 for step in range(51))]


@pytest.mark.parametrize(
    "style",
    [*map(shade, STYLES), *(shade_difference(v and sign * v, is_faded=f) for v in STYLES for sign in (-1, 1) for f in (False, True))],
)
def test_every_cell_can_be_read(style: str) -> None:
    """Over the lines of a hatched cell too, which darken by 14 % at most."""
    match = re.fullmatch(r"background-color: rgb\((\d+), (\d+), (\d+)\); color: (#000000|#ffffff)", style)
    assert match is not None
    background = tuple(map(int, match.groups()[:3]))
    text = (0, 0, 0) if match[4] == "#000000" else (255, 255, 255)
    assert contrast(background, text) >= 4.5
    lined = tuple(0.86 * part + 0.14 * line for part, line in zip(background, (70, 80, 90), strict=True))
    assert contrast(lined, text) >= 4.5


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("GRPO, No-Think", ["No-Think"]),
        ("X-ray and Med-R1", ["X-ray", "Med-R1"]),
        ("Think-After (grpo-600-think)", ["Think-After"]),  # a run's name may be long and may break
        ("a-word-that-is-far-too-long", []),
        ("1-2, -x, y-, <b>No-Think</b>", ["No-Think"]),
    ],
)
def test_short_words_do_not_break_at_their_hyphens(text: str, kept: list[str]) -> None:
    html = str(keep_whole(text))
    assert re.findall(r'<span class="nb">([^<]*)</span>', html) == kept
    assert re.sub(r"</?span[^>]*>", "", html).replace("&lt;", "<").replace("&gt;", ">") == text


def test_every_term_is_used_and_every_used_term_exists() -> None:
    folder = Path(render_report.__code__.co_filename).parent / "templates"
    asked = set()
    for template in folder.glob("*.j2"):
        for names in re.findall(r"parts\.terms\(\[(.*?)\]\)", template.read_text()):
            asked |= {part.split('"')[1] for part in names.split(", ")}
    assert asked == set(read_glossary())


def test_an_audit_alone_has_no_table_of_contents() -> None:
    report = Report(audits=(build_audit(phantom()),))
    assert not report.is_mixed
    assert [entry.id for entry in report.contents] == ["audit"]
    assert '<nav class="toc"' not in render_report(report)
