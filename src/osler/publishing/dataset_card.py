"""The dataset card of a manifest: which questions belong to which split, by digests, without the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from osler.data.readers import GENERAL_READERS, ReaderCard
from osler.data.splits.manifest import Manifest
from osler.errors import DataError
from osler.publishing.author import Author
from osler.publishing.markdown import fill
from osler.publishing.questions import find_reader
from osler.publishing.results import Table
from osler.reports.page import count_tables

PRIVATE: Final = "private/"
"""How the names of images of a private dataset begin."""

_SIZES: Final = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetCard:
    """What the template shows."""

    name: str
    manifest: Manifest
    reader: ReaderCard | None
    author: Author
    counts: tuple[Table, ...]
    num_left_over: int  # samples without a split
    has_ids: bool  # whether the manifest itself is published


def build_dataset_card(manifest: Manifest, *, name: str, author: Author) -> DatasetCard:
    """The card of a manifest that is published as `name`."""
    reader = find_reader(manifest.reader)
    cells = {split: {"cells": counts} for split, counts in manifest.counts.items()}
    tables = []
    for table in count_tables(cells):
        rows = [(title, *(f"{number:,}" for number in numbers)) for title, numbers in table.rows]
        rows.append(("All", *(f"{number:,}" for number in table.totals)))
        tables.append(Table(heads=(table.name.capitalize(), *map(str.capitalize, table.splits)), rows=tuple(rows)))
    return DatasetCard(
        name=name,
        manifest=manifest,
        reader=reader.card if reader is not None else None,
        author=author,
        counts=tuple(tables),
        num_left_over=sum(entry.split is None for entry in manifest.samples),
        has_ids=can_show_ids(manifest),
    )


def can_show_ids(manifest: Manifest) -> bool:
    """Whether ids and names of images are those of a public dataset, so that they name nobody."""
    is_private = any(uri.startswith(PRIVATE) for uri in manifest.images)
    return not is_private and manifest.reader not in GENERAL_READERS and find_reader(manifest.reader) is not None


def write_dataset_card(card: DatasetCard) -> str:
    """The card as Markdown with its metadata. Raises DataError if the hub's own parser does not accept it."""
    from huggingface_hub import DatasetCard as HubCard
    from huggingface_hub import DatasetCardData

    total = len(card.manifest.samples)
    data = DatasetCardData(
        license=card.author.license,
        pretty_name=card.name,
        task_categories=["visual-question-answering"],
        size_categories=[next((name for limit, name in _SIZES if total < limit), "1M<n<10M")],
        tags=["osler", "medical", "split"],
    )
    text = f"---\n{data.to_yaml()}\n---\n\n" + fill("dataset_card.md.j2", card=card)
    try:
        HubCard(text)
    except ValueError as error:
        raise DataError(f"the hub's parser does not accept the metadata of the card: {error}") from None
    return text
