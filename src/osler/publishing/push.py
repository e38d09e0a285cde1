"""Uploading a published folder to the hub: what would be uploaded, the question, and the upload.

Only files that `osler publish` wrote are uploaded, each by its name in `published.json`; anything else in the folder stays here. The token
is the one that `hf auth login` stored: Osler neither asks for it nor keeps it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TextIO

from osler.errors import ConfigError, OslerError, first_line

RepositoryKind = Literal["model", "dataset"]

_UPLOADABLE: Final = re.compile(
    r"README\.md|CHECKLIST\.md|published\.json|manifest\.json|(adapter/)?[\w.-]+\.safetensors|adapter/adapter_config\.json"
    r"|(config|generation_config|preprocessor_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json"
    r"|model\.safetensors\.index\.json|chat_template\.jinja|merges\.txt"
)
"""The names of files that may ever be uploaded: no records, no images, no keys, whatever `published.json` lists."""

YES: Final = ("y", "yes")


class Hub(Protocol):
    """What Osler uses of `huggingface_hub.HfApi`."""

    def whoami(self) -> Mapping[str, Any]:
        """The account of the stored token. Raises where there is none."""

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> Any:
        """Create a repository, or do nothing where it exists; an existing one stays as public or private as it is."""

    def upload_folder(self, *, repo_id: str, folder_path: str, repo_type: str, allow_patterns: list[str], commit_message: str) -> Any:
        """Upload the files whose names are in `allow_patterns` in one commit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """What would be uploaded."""

    folder: Path
    hub_id: str  # "example/grpo-think"
    kind: RepositoryKind
    is_public: bool
    files: tuple[tuple[str, int], ...]  # name and bytes
    left_out: tuple[str, ...]  # files of the folder that are not uploaded

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(size for _, size in self.files)

    def describe(self) -> str:
        """The files, the place and what is left out, in lines of text."""
        lines = [f"  {size:>15,} bytes  {name}" for name, size in self.files]
        seen = "everybody can see it" if self.is_public else "private, if it is new: only its owner sees it"
        lines.append(f"{len(self.files)} files, {self.num_bytes:,} bytes, to the {self.kind} repository {self.hub_id} ({seen})")
        if self.left_out:
            lines.append(f"not uploaded, because osler publish did not write it: {', '.join(self.left_out)}")
        return "\n".join(lines)


def check_hub_id(hub_id: str) -> str:
    """The id, if the hub admits it and it names an owner. Raises ConfigError."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(hub_id)
    except HFValidationError as error:
        raise ConfigError(f"--push {hub_id!r} is no id of the hub: {first_line(error)}") from None
    if "/" not in hub_id:
        raise ConfigError(f"--push {hub_id!r} names no owner: use OWNER/NAME")
    return hub_id


def plan_upload(folder: Path, names: Sequence[str], hub_id: str, *, kind: RepositoryKind, is_public: bool) -> Upload:
    """What an upload of the files `names` of `folder` would do. Raises OslerError for a name that is never uploaded."""
    if wrong := [name for name in names if not _UPLOADABLE.fullmatch(name)]:
        raise OslerError(f"{folder / wrong[0]} is not a file that Osler uploads: publish the run again into a new folder")
    inside = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return Upload(
        folder=folder,
        hub_id=check_hub_id(hub_id),
        kind=kind,
        is_public=is_public,
        files=tuple((name, (folder / name).stat().st_size) for name in sorted(names)),
        left_out=tuple(sorted(inside - set(names))),
    )


def open_hub() -> Hub:
    """The hub with the stored token. Raises OslerError where no account is logged in, or the hub is switched off."""
    from huggingface_hub import HfApi, constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise OslerError("HF_HUB_OFFLINE is set, so nothing can be uploaded: unset it")
    if get_token() is None:
        raise OslerError("no account of the hub is logged in: run `hf auth login`, then push again")
    return HfApi()


def confirm(question: str, answers: TextIO, out: TextIO, *, is_sure: bool) -> bool:
    """Ask on the terminal and return whether the answer is yes; `is_sure` asks nothing. Raises OslerError where nobody can answer."""
    if is_sure:
        return True
    if not answers.isatty():
        raise OslerError("nobody can be asked here whether to upload: look at the list above, then add --yes")
    out.write(f"{question} [y/N] ")
    out.flush()
    return answers.readline().strip().lower() in YES


def push(hub: Hub, upload: Upload, *, message: str) -> str:
    """Create the repository where it is missing, upload the files in one commit, and return the address.

    Raises OslerError, in one line, for whatever the hub or the connection refuses.
    """
    try:
        owner = str(hub.whoami().get("name"))
        hub.create_repo(upload.hub_id, repo_type=upload.kind, private=not upload.is_public, exist_ok=True)
        hub.upload_folder(
            repo_id=upload.hub_id,
            folder_path=str(upload.folder),
            repo_type=upload.kind,
            allow_patterns=[name for name, _ in upload.files],
            commit_message=message,
        )
    except Exception as error:  # the classes depend on the hub's transport, which changes between its versions
        raise OslerError(f"the hub did not take {upload.hub_id}: {first_line(error)}") from error
    place = "datasets/" if upload.kind == "dataset" else ""
    return f"https://huggingface.co/{place}{upload.hub_id} (as {owner})"
