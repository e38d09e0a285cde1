"""`osler publish`: a finished run, or the manifest of a split, becomes a folder that can be uploaded as it is.

`published.json` in the folder says what it was made from and holds the SHA-256 of every file. A folder that was made from the same run is
used again, with a card that its author may have edited; its weights must be unchanged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from osler.publishing.finished import FinishedRun, open_finished
from osler.publishing.push import RepositoryKind

LIST: Final = "published.json"
FORMAT: Final = "osler-published"
EDITABLE: Final = ("README.md", "CHECKLIST.md", LIST)
"""Files that the author may change before the upload."""


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
    card = build_card(finished, name=(hub_id or out.resolve().name).rpartition("/")[2], hub_id=hub_id or out.resolve().name, author=author)
    text, checklist = write_card(card), write_checklist(card)
    is_new = _check_folder(out, finished.policy)
    kept = [] if is_new else _refresh(out, {"README.md": text, "CHECKLIST.md": checklist}, is_dry=is_dry)
    if is_new and not is_dry:
        with replacing(out) as draft:
            draft.mkdir()
            write_policy(finished, draft, shard_size=shard_size)
            write_whole(draft / "README.md", text)
            write_whole(draft / "CHECKLIST.md", checklist)
            _write_list(draft, "model", finished.policy)
    return Published(
        folder=out,
        kind="model",
        files=list_files(out) if out.is_dir() and any(out.iterdir()) else _planned(finished),
        card=text,
        num_open=count_open(card),
        notes=(*_notes(card), *kept, *([] if is_new or is_dry or hub_id is None else _stale(out, hub_id))),
        is_new=is_new,
    )


def publish_manifest(path: Path, out: Path, *, author: Author | None = None, hub_id: str | None = None, is_dry: bool = False) -> Published:
    """Write the folder of a manifest of `osler split`: a dataset card, and the manifest itself where its ids name nobody."""
    manifest = load_manifest(path)
    card = build_dataset_card(manifest, name=(hub_id or out.resolve().name).rpartition("/")[2], author=author or Author())
    text = write_dataset_card(card)
    is_new = _check_folder(out, manifest.digest())
    kept = [] if is_new else _refresh(out, {"README.md": text}, is_dry=is_dry)
    if is_new and not is_dry:
        with replacing(out) as draft:
            draft.mkdir()
            write_whole(draft / "README.md", text)
            if card.has_ids:
                write_whole(draft / "manifest.json", path.read_bytes())
            _write_list(draft, "dataset", manifest.digest())
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
            raise OslerError(f"{out} lacks {name}: delete the folder and publish again")
        if name not in EDITABLE and digest_file(out / name) != digest:
            raise OslerError(f"{out / name} was changed after it was published: delete the folder and publish again")
    return False


def _refresh(out: Path, texts: Mapping[str, str], *, is_dry: bool) -> list[str]:
    """Write the texts of a folder anew where its author has not edited them. Returns what a person should know about those that stay."""
    content = read_json_object(out / LIST)
    files, made, notes = dict(content.get("files", {})), dict(content.get("made", {})), []
    for name, text in texts.items():
        digest = hashlib.sha256(text.encode()).hexdigest()
        present = digest_file(out / name)
        if present in (files.get(name), made.get(name)):
            if not is_dry and present != digest:
                write_whole(out / name, text)
            files[name] = digest
        elif made.get(name, files.get(name)) != digest:
            notes.append(f"{out / name} was edited, so it stays as it is; what would be written differs from before: see --dry-run")
        made[name] = digest
    if not is_dry:
        write_json(out / LIST, {**content, "files": files, "made": made})
    return notes


def list_files(folder: Path) -> tuple[str, ...]:
    """The names of the files that a published folder lists, and of the list."""
    return (*read_json_object(folder / LIST).get("files", {}), LIST)


def _write_list(draft: Path, kind: RepositoryKind, source: str) -> None:
    names = sorted(str(path.relative_to(draft)) for path in draft.rglob("*") if path.is_file())
    content: dict[str, Any] = {"format": FORMAT, "version": 1, "kind": kind, "source": source, "osler": __version__}
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
    return [f"{out / 'README.md'} does not name {hub_id}, so its example loads something else: edit it, or publish into a new folder"]


def _notes(card: Card) -> list[str]:
    notes = []
    if not card.finished.own:
        root = card.finished.folder.root
        notes.append(f"the policy was not evaluated: osler eval RECIPE --policy {root} --out {root}, with the settings of its training")
    if card.licence is None:
        notes.append("no licence is stated: name one in the file of --author")
    if card.base_model is None and not card.finished.base.is_packaged:
        notes.append(f"the base {card.finished.base.name} is a folder of this machine: name it by base_model in the file of --author")
    return notes
