"""The printer of every table on the terminal. Workflows return results; the verbs in this package print them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from osler.reports.heat import HeatMap
    from osler.types import Record

FILE_WIDTH: Final = 240
"""Columns of a table that goes to a file or a pipe, which have no width of their own."""


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
    blind: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
) -> None:
    """Print accuracies in per cent with their 95 % intervals, one row for each (label, records) pair, e.g. "78.2 [73.1, 82.5]".

    `in_domain` names the modalities that the policies were trained on; `blind` holds the credits of blind baselines, by their title.
    """
    from osler.metrics import percent, points
    from osler.reports.load_runs import Evaluation
    from osler.reports.tables import accuracy_table, describe_clusters, gain_table, group_title

    evaluations = [Evaluation(label=label, title=label, records=tuple(records), blind=blind) for label, records in rows]
    table = accuracy_table(evaluations, in_domain=in_domain)
    gains = gain_table(evaluations, in_domain=in_domain)
    heads = ["", *(group_title(name) + (" (in-domain)" if name in in_domain else "") for name in table.columns), "Average"]
    body = [[row.title, *map(str, (*row.cells, row.average))] for row in table.rows]
    if gains is not None:
        heads.append("Image gain")
        gained = {row.title: points(row.average) for row in gains.rows}
        body = [[*row, gained.get(row[0], "")] for row in body]
    best = {(i, k + 1) for i, row in enumerate(table.rows) for k in range(len(table.columns) + 1) if table.is_best(row, k)}
    print_table(heads, body, best=best, footer=["Guessing", *map(percent, table.chance)])
    if gains is not None:
        print("Image gain: accuracy minus the best blind baseline of each column, guessing included; paired, mean of the columns.")
    if (clusters := describe_clusters(evaluations)) is not None:
        print(f"{clusters[0].upper()}{clusters[1:]}: intervals take those to be independent, not the questions.")


def print_heat(heat: HeatMap, corner: str = "") -> None:
    """Print the texts of a heat map, with stars where a difference is significant; `corner` heads the column of row names."""
    rows = [[title, *(tile.text + tile.star for tile in tiles)] for title, tiles in heat.rows]
    print_table([corner, *heat.columns], rows, title=heat.title)
    if heat.means:
        print(heat.means)
