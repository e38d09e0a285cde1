"""`osler publish`: a finished run, or the manifest of a split, becomes a folder that can be uploaded as it is.

`published.json` in the folder says what it was made from and holds the SHA-256 of every file. A folder that was made from the same run is
used again, with a card that its author may have edited; its weights must be unchanged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from osler import __version__
from osler.data.splits.manifest import Manifest, load_manifest
from osler.errors import OslerError
from osler.files import digest_file, read_json_object, replacing, write_json, write_whole
from osler.publishing.author import Author
from osler.publishing.card import Card, build_card, write_card
from osler.publishing.checklist import check_keys, count_open, write_checklist
from osler.publishing.dataset_card import build_dataset_card, can_show_ids, write_dataset_card
from osler.publishing.files import ADAPTER_FILES, SHARD_SIZE, write_policy
from osler.publishing.finished import FinishedRun, find_evaluations, open_finished
from osler.publishing.push import RepositoryKind

LIST: Final = "published.json"
FORMAT: Final = "osler-published"
EDITABLE: Final = ("README.md", "CHECKLIST.md", LIST)
"""Files that the author may change before the upload."""
MAX_NAMED: Final = 3
"""Folders that a note names."""
CARDS: Final = ("README.md", "CHECKLIST.md")
"""Those of them that are for readers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A published folder, or what it would hold."""

    folder: Path
    kind: RepositoryKind
    files: tuple[str, ...]  # names within the folder; of a dry run without the number of shards
    card: str  # Markdown
    num_open: int  # items of the checklists that wait for the author
    notes: tuple[str, ...]  # what a person should know before the upload
    is_new: bool  # False where the folder was there


def publish_run(
    root: Path,
    out: Path,
    *,
    others: Sequence[Path] = (),
    author: Author | None = None,
    hub_id: str | None = None,
    shard_size: str = SHARD_SIZE,
    is_dry: bool = False,
) -> Published:
    """Write the folder of a run; with `is_dry` nothing is written. `others` are runs whose results stand beside it in the card.

    Raises OslerError for a run that is not finished, a folder that holds other files, and a policy that does not load again.
    """
    author = author or Author()
    check_keys(author.checklist)
    finished = open_finished(root, others)
    hub_id = hub_id or _known_id(out, finished.policy)
    card = build_card(finished, name=(hub_id or out.resolve().name).rpartition("/")[2], hub_id=hub_id or out.resolve().name, author=author)
    text, checklist = write_card(card), write_checklist(card)
    with _naming_faults(out):
        is_new = _check_folder(out, finished.policy)
        renamed = [] if is_new or is_dry else _rename_edited(out, card)
        kept = [] if is_new else _refresh(out, {"README.md": text, "CHECKLIST.md": checklist}, card.hub_id, is_dry=is_dry)
        if is_new and not is_dry:
            with replacing(out) as draft:
                draft.mkdir()
                write_policy(finished, draft, shard_size=shard_size)
                write_whole(draft / "README.md", text)
                write_whole(draft / "CHECKLIST.md", checklist)
                _write_list(draft, "model", finished.policy, card.hub_id)
    return Published(
        folder=out,
        kind="model",
        files=list_files(out) if out.is_dir() and any(out.iterdir()) else _planned(finished),
        card=text,
        num_open=count_open(card),
        notes=(*_notes(card), *renamed, *kept, *([] if is_new or is_dry or hub_id is None else _stale(out, hub_id))),
        is_new=is_new,
    )


def publish_manifest(path: Path, out: Path, *, author: Author | None = None, hub_id: str | None = None, is_dry: bool = False) -> Published:
    """Write the folder of a manifest of `osler split`: a dataset card, and the manifest itself where its ids name nobody."""
    manifest = load_manifest(path)
    card = build_dataset_card(manifest, name=(hub_id or out.resolve().name).rpartition("/")[2], author=author or Author())
    text = write_dataset_card(card)
    with _naming_faults(out):
        is_new = _check_folder(out, manifest.digest())
        kept = [] if is_new else _refresh(out, {"README.md": text}, hub_id or out.resolve().name, is_dry=is_dry)
        if is_new and not is_dry:
            with replacing(out) as draft:
                draft.mkdir()
                write_whole(draft / "README.md", text)
                if card.has_ids:
                    write_whole(draft / "manifest.json", path.read_bytes())
                _write_list(draft, "dataset", manifest.digest(), hub_id or out.resolve().name)
    planned = ("README.md", *(("manifest.json",) if can_show_ids(manifest) else ()), LIST)
    return Published(
        folder=out,
        kind="dataset",
        files=list_files(out) if out.is_dir() and any(out.iterdir()) else planned,
        card=text,
        num_open=0,
        notes=(*_manifest_notes(manifest, author or Author()), *kept),
        is_new=is_new,
    )


def _manifest_notes(manifest: Manifest, author: Author) -> tuple[str, ...]:
    notes = [] if can_show_ids(manifest) else ["the manifest is not published: its ids could name patients"]
    if author.license is None:
        notes.append("no licence is stated: name one in the file of --author")
    return tuple(notes)


@contextmanager
def _naming_faults(out: Path) -> Iterator[None]:
    """Turn a fault of the disk within the block, such as a folder that may not be written, into an OslerError."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not of the disk: Transformers raises its own faults as OSError
            raise
        raise OslerError(f"cannot write {out}: {error.strerror}; give --out a folder that can be written") from None


def _check_folder(out: Path, source: str) -> bool:
    """Whether `out` is still to be written. Raises OslerError for a folder of something else, and for changed weights."""
    if out.exists() and not out.is_dir():
        raise OslerError(f"{out} is a file: give --out a folder")
    if not out.is_dir() or not any(out.iterdir()):
        return True
    listed = read_json_object(out / LIST)
    if listed.get("format") != FORMAT or listed.get("source") != source:
        raise OslerError(f"{out} holds something else: give another --out")
    for name, digest in listed.get("files", {}).items():
        if not (out / name).is_file():
            raise OslerError(f"{out} lacks {name}: {_start_over(out, listed)}")
        if name not in EDITABLE and digest_file(out / name) != digest:
            raise OslerError(f"{out / name} was changed after it was published: {_start_over(out, listed)}")
    return False


def _start_over(out: Path, listed: Mapping[str, Any]) -> str:
    """The remedy for a folder that is not as it was written; it says which edits of its author would be lost."""
    remedy = "delete the folder and publish again"
    known = [{part.get(name) for part in (listed.get("files", {}), listed.get("made", {}))} for name in CARDS]
    edited = [name for name, digests in zip(CARDS, known, strict=True) if (out / name).is_file() and digest_file(out / name) not in digests]
    return f"{remedy}; your edits of {' and '.join(edited)} go with it, so copy them first" if edited else remedy


def _known_id(out: Path, source: str) -> str | None:
    """The hub id that an earlier --push gave to the folder, so that the same command without it writes the same card."""
    listed = read_json_object(out / LIST)
    known = listed.get("hub_id")
    return known if listed.get("source") == source and isinstance(known, str) and "/" in known else None


def _rename_edited(out: Path, card: Card) -> list[str]:
    """Write the present hub id into an edited README.md, in those lines that are as Osler wrote them with the id of before.

    Returns what a person should know.
    """
    listed = read_json_object(out / LIST)
    before, file = str(listed.get("hub_id", out.resolve().name)), out / "README.md"
    digests, made = listed.get("files", {}), listed.get("made", {})
    if before == card.hub_id or digest_file(file) in (digests.get(file.name), made.get(file.name)):
        return []
    old, new = write_card(replace(card, hub_id=before, name=before.rpartition("/")[2])), write_card(card)
    if old.count("\n") != new.count("\n"):  # the metadata break their lines elsewhere
        return []
    lines = dict(zip(old.splitlines(), new.splitlines(), strict=True))
    text = file.read_text(encoding="utf-8")
    changed = "\n".join(lines.get(line, line) for line in text.split("\n"))
    if changed == text:
        return []
    write_whole(file, changed)
    if made.get(file.name, digests.get(file.name)) == _digest(old):  # nothing but the id would be written otherwise
        write_json(out / LIST, {**listed, "made": {**made, file.name: _digest(new)}})
    return [f"{file} was edited: only the lines that named {before} were changed, to {card.hub_id}"]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _refresh(out: Path, texts: Mapping[str, str], hub_id: str, *, is_dry: bool) -> list[str]:
    """Write the texts of a folder anew where its author has not edited them. Returns what a person should know about those that stay."""
    content = read_json_object(out / LIST)
    files, made, notes = dict(content.get("files", {})), dict(content.get("made", {})), []
    for name, text in texts.items():
        digest = _digest(text)
        present = digest_file(out / name)
        if present in (files.get(name), made.get(name)):
            if not is_dry and present != digest:
                write_whole(out / name, text)
            files[name] = digest
        elif made.get(name, files.get(name)) != digest:
            notes.append(f"{out / name} was edited, so it stays as it is; what would be written differs from before: see --dry-run")
        made[name] = digest
    if not is_dry:
        write_json(out / LIST, {**content, "hub_id": hub_id, "files": files, "made": made})
    return notes


def list_files(folder: Path) -> tuple[str, ...]:
    """The names of the files that a published folder lists, and of the list."""
    return (*read_json_object(folder / LIST).get("files", {}), LIST)


def _write_list(draft: Path, kind: RepositoryKind, source: str, hub_id: str) -> None:
    names = sorted(str(path.relative_to(draft)) for path in draft.rglob("*") if path.is_file())
    content: dict[str, Any] = {"format": FORMAT, "version": 1, "kind": kind, "source": source, "osler": __version__, "hub_id": hub_id}
    write_json(draft / LIST, {**content, "files": {name: digest_file(draft / name) for name in names}})


def _planned(finished: FinishedRun) -> tuple[str, ...]:
    """The files that a run would have."""
    adapter = tuple(f"adapter/{name}" for name in ADAPTER_FILES) if finished.folder.adapter.is_dir() else ()
    policy = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    return ("README.md", "CHECKLIST.md", *policy, "chat_template.jinja", "preprocessor_config.json", *adapter, LIST)


def _stale(out: Path, hub_id: str) -> list[str]:
    """A card that was written before the id was known."""
    if hub_id in (out / "README.md").read_text(encoding="utf-8"):
        return []
    return [f"{out / 'README.md'} was edited and does not name {hub_id}, so its example loads something else: write {hub_id} into it"]


def _notes(card: Card) -> list[str]:
    notes = []
    if not card.finished.own:
        root = card.finished.folder.root
        beside = find_evaluations(card.finished)
        if beside:
            found = " ".join(f"--with {folder}" for folder in beside[:MAX_NAMED])
            notes.append(f"the card has no results, but evaluations of this policy lie beside the run: add {found}")
        else:
            notes.append(
                f"the card has no results: name the folder of an evaluation of this policy by --with FOLDER; where there is none: "
                f"osler eval RECIPE --policy {root} --out {root}, with the settings of its training"
            )
    if card.licence is None:
        notes.append("no licence is stated: name one in the file of --author")
    if card.base_model is None and not card.finished.base.is_packaged:
        notes.append(f"the base {card.finished.base.name} is a folder of this machine: name it by base_model in the file of --author")
    return notes
