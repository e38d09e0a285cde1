"""The printer of every table on the terminal. Workflows return results; the verbs in this package print them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from osler.evaluation.truth import Luck
    from osler.metrics.truth import ReasoningTruth
    from osler.reports.heat import HeatMap
    from osler.reports.load_runs import Evaluation
    from osler.reports.readers import ReaderPart
    from osler.types import Record

FILE_WIDTH: Final = 240
"""Columns of a table that goes to a file or a pipe, which have no width of their own."""

TRUTH_TITLES: Final = (
    "True reasonings",
    "reasonings by luck: usual",
    "reasonings by luck: other image",
    "True statements",
    "statements by luck: usual",
    "statements by luck: other image",
    "Right, false reason",
    "Right, no reason",
    "To the point",
    "Distinct",
    "Checked",
)
"""The measures of a truth table; the last two are numbers of different reasonings and of checked statements."""


def print_table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
    best: Collection[tuple[int, int]] = (),
    footer: Sequence[str] = (),
    has_lines: bool = True,
) -> None:
    """Print a table, the first column left-aligned and the others right-aligned; plain text where the output is not a terminal.

    On a terminal `best` cells, given as (row, column) from 0, are bold green, and the `footer` row is dim. Where the terminal is too
    narrow, heads break at spaces and an interval goes below its value. Without `has_lines` no lines separate heads, columns and footer.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=FILE_WIDTH)
    body = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *body, strict=True)]
    is_narrow = sum(widths) + 3 * (len(widths) - 1) > console.width

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    if has_lines:
        table = Table(box=box.SIMPLE_HEAD if console.is_terminal else box.ASCII2, show_edge=False, pad_edge=False)
    for column, head in enumerate(heads):
        table.add_column(Text(head.replace(" ", "\n") if is_narrow else head), justify="right" if column else "left")
    # Text, because rich would read the brackets of an interval as markup.
    for number, row in enumerate(body):
        cells = [cell.replace(" [", "\n[") if is_narrow and column else cell for column, cell in enumerate(row)]
        table.add_row(*(Text(cell, style="bold green" if (number, column) in best else "") for column, cell in enumerate(cells)))
    if footer:
        table.add_section()
        table.add_row(*(Text(cell, style="dim") for cell in footer))
    if title:
        console.print()
        console.print(Text(printable(title), style="bold"), soft_wrap=True)
    console.print(table)


def printable(text: str) -> str:
    """Text from a data file with "?" for every character that could control a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def print_accuracies(
    rows: Sequence[tuple[str, Sequence[Record]]],
    *,
    in_domain: Collection[str] = (),
    blind: Mapping[str, Mapping[str, Mapping[str, float]]] = MappingProxyType({}),
    blind_answers: Mapping[str, Mapping[str, Mapping[str, str]]] = MappingProxyType({}),
) -> None:
    """Print accuracies in per cent with their 95 % intervals, one row for each (label, records) pair, e.g. "78.2 [73.1, 82.5]".

    `in_domain` names the modalities that the policies were trained on; `blind` holds each row's credits of blind baselines
    by their title, as they stand beside its records: rows that were trained on other questions have other baselines. `blind_answers`
    holds their answers to open questions in the same way.
    """
    from osler.metrics import percent, points
    from osler.reports.leniency import describe_leniency, lenient_share
    from osler.reports.load_runs import Evaluation
    from osler.reports.tables import FEW, accuracy_table, describe_clusters, gain_table, group_title, has_few_clusters
    from osler.reports.truth import truth_table

    evaluations = [
        Evaluation(label=label, title=label, records=tuple(records), blind=blind.get(label, {}), blind_answers=blind_answers.get(label, {}))
        for label, records in rows
    ]
    table = accuracy_table(evaluations, in_domain=in_domain)
    gains = gain_table(evaluations, in_domain=in_domain)
    heads = ["", *(group_title(name) + (" (in-domain)" if name in in_domain else "") for name in table.columns), "Average"]
    body = [[row.title, *map(str, (*row.cells, row.average))] for row in table.rows]
    if gains is not None:
        heads.append("Image gain")
        gained = {row.title: points(row.average) for row in gains.rows}
        body = [[*row, gained.get(row[0], "")] for row in body]
    truth = truth_table(evaluations, in_domain=in_domain)
    if truth is not None:
        heads.append("True reasonings")
        true = {row.title: str(row.average) for row in truth.rows}
        body = [[*row, true.get(row[0], "")] for row in body]
    best = {(i, k + 1) for i, row in enumerate(table.rows) for k in range(len(table.columns) + 1) if table.is_best(row, k)}
    print_table(heads, body, best=best, footer=["Guessing", *map(percent, table.chance)])
    if gains is not None:
        print("Image gain: accuracy minus the best blind baseline of each column, guessing included; paired, mean of the columns.")
    if (clusters := describe_clusters(evaluations)) is not None:
        print(f"{clusters[0].upper()}{clusters[1:]}: intervals take those to be independent, not the questions.")
    if has_few_clusters(table):
        print(FEW)
    print(describe_leniency({row.title: lenient_share(row.records) for row in evaluations if not row.is_blind}))
    print_open(evaluations)
    print_truth(evaluations, in_domain)


def print_open(evaluations: Sequence[Evaluation]) -> None:
    """Print how policies and blind baselines answer open questions, one row each; nothing without open questions."""
    from osler.metrics import percent
    from osler.reports.leniency import describe_undecided, undecided_share
    from osler.reports.open_questions import open_rows

    if not (rows := open_rows(evaluations)):
        return
    heads = ("", "Questions", "Right", "Wrong", "Undecided", "No answer", "Token F1", "ROUGE-L")
    body = [
        [f"blind: {row.title}" if row.is_blind else row.title, f"{row.right.total:,}", str(row.right),
         *map(percent, (row.wrong, row.undecided, row.unread)), str(row.token_f1), str(row.rouge_l)]
        for row in rows
    ]  # fmt: skip
    print_table(heads, body, title="Open questions")
    print(describe_undecided({row.title: undecided_share(row.records) for row in evaluations if not row.is_blind}))
    if any(row.is_blind for row in rows):
        print("blind: answers of train to the same type of question, the same question, or the one with the most similar words.")


def print_truth(evaluations: Sequence[Evaluation], in_domain: Collection[str] = ()) -> None:
    """Print how much of the reasoning is true, beside luck; nothing without reasonings about images of which something is known.

    One policy has a column for each modality, and a row for each measure. Several policies have a row each, on the questions of
    `in_domain`, after a table of their true reasonings in each modality.
    """
    from osler import metrics
    from osler.evaluation.truth import luck, measure_truth, with_reasoning
    from osler.reports.headline import describe_domain
    from osler.reports.tables import group_title
    from osler.reports.truth import truth_rows, truth_table

    if (table := truth_table(evaluations, in_domain=in_domain)) is None:
        if any(with_reasoning(row.records) for row in evaluations):
            print("Whether the reasonings are true is not known: the records hold no facts about the images.")
        return
    columns = [group_title(name) + (" (in-domain)" if name in in_domain else "") for name in table.columns]
    if len(table.rows) == 1:
        records = next(row.records for row in evaluations if with_reasoning(row.records))
        groups = metrics.group(records, ("modality",))
        cells = [_truth_cells(measure_truth(groups[name,]), luck(groups[name,])) for name in table.columns]
        body = [[title, *(part[title] for part in cells)] for title in TRUTH_TITLES]
        print_table(("", *columns), body, title=f"Is the reasoning true? {table.rows[0].title}")
    else:
        body = [[row.title, *map(str, (*row.cells, row.average))] for row in table.rows]
        print_table(("", *columns, "Average"), body, title="True reasonings")
        shown = [name for name in in_domain if name in table.columns]
        rows = {row.title: _truth_cells(row.truth, row.luck) for row in truth_rows(evaluations, shown)}
        heads = [title for title in TRUTH_TITLES if not title.startswith("statements by luck")]
        body = [[title, *(cells[head] for head in heads)] for title, cells in rows.items()]
        print_table(
            ("", *(head.removeprefix("reasonings ") for head in heads)), body, title=f"Is the reasoning true? {describe_domain(shown)}"
        )
    print("True: something in the reasoning can be checked, and nothing in it is false. Right, ..: share of the right answers.")
    print("To the point: true, and something in it bears on the question.")
    print("By luck: with the most usual statements in place of its own, or with the facts of another image.")
    print("Distinct: different reasonings. Checked: statements that could be checked, without conclusions that repeat the answer.")


def print_readers(part: ReaderPart | None) -> None:
    """Print how readers agree and how long they took; nothing without a reader study."""
    from osler.metrics.agreement import coefficient

    if part is None:
        return
    if part.agreements:
        rows = [
            [row.title, row.statistic, str(row.agreement.num_questions), str(row.agreement.observed), coefficient(row.agreement.kappa)]
            for row in part.agreements
        ]
        print_table(("", "Statistic", "Questions", "Equal answers", "Kappa"), rows, title="Agreement of readers")
    if part.times:
        rows = [[row.title, row.part, str(row.num_cases), f"{row.median_text} {row.quartiles_text}"] for row in part.times]
        print_table(("", "Cases", "Number", "Median time"), rows, title="Time per case, with quartiles")


def _truth_cells(truth: ReasoningTruth | None, luck: Luck | None) -> dict[str, str]:
    """The measures of one policy on some questions, by the titles of TRUTH_TITLES."""
    from osler.metrics import DASH, percent

    if truth is None or luck is None:
        return dict.fromkeys(TRUTH_TITLES, DASH)
    blind = (luck.usual, luck.other_image)
    cells = (
        str(truth.true_reasonings),
        *(percent(shares.true_reasonings.value) for shares in blind),
        str(truth.true_statements),
        *(percent(shares.true_statements.value) for shares in blind),
        str(truth.right_for_false_reason),
        str(truth.right_for_no_reason),
        str(truth.relevant_reasonings),
        f"{truth.distinct:,}",
        f"{truth.num_checked:,}",
    )
    return dict(zip(TRUTH_TITLES, cells, strict=True))


def print_heat(heat: HeatMap, corner: str = "") -> None:
    """Print the texts of a heat map, with stars where a difference is significant; `corner` heads the column of row names."""
    rows = [[title, *(tile.text + tile.star for tile in tiles)] for title, tiles in heat.rows]
    print_table([corner, *heat.columns], rows, title=heat.title)
    if heat.means:
        print(heat.means)
