"""`osler serve`."""

from __future__ import annotations

import argparse
import importlib.util
import re
import secrets
import socket
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from osler.cli.common import add_verb, say_loading
from osler.cli.reader_study import add_study_options, run_study
from osler.cli.tables import printable
from osler.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from osler.serving.settings import ServerSettings

_ORIGIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/]+")  # also that of a browser's extension
_NEEDED: Final = ("fastapi", "uvicorn", "prometheus_client", "multipart")


def add_serve(verbs: Any) -> None:
    """`osler serve`."""
    parser = add_verb(
        verbs,
        "serve",
        _run,
        "answer questions about images over HTTP, for programs and in a page",
        "Load a policy and answer questions about images: a page in the browser, an API that the clients of\n"
        "OpenAI's API can call (/v1/chat/completions), and POST /v1/answer, which tells of each answer the rule\n"
        "that read it, probabilities, votes, and what another image changes. The requests of many users share one\n"
        "running batch. Only this machine reaches it unless --host says otherwise. Nothing is stored without\n"
        "--log-dir. Ctrl+C or SIGTERM: what runs is finished, what comes is refused.",
        "osler serve                                        the packaged policy at http://127.0.0.1:8000",
        "osler serve --policy runs/demo/grpo-think --port 9000",
        "osler serve --host 0.0.0.0 --api-key-file key.txt  for other machines, which must send the key",
        "osler serve --study slake --data.root DIR --readers 3   the same questions for people; see docs/reader_study.md",
        "curl http://127.0.0.1:8000/v1/models",
    )
    parser.add_argument(
        "--policy", default="osler-tiny", help="packaged policy, run folder, model folder or Hugging Face id (default: %(default)s)"
    )
    _add_address(parser)
    _add_limits(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: %(default)s)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the weights (default: %(default)s)")
    parser.add_argument(
        "--max-pixels", type=int, default=None, metavar="N", help="larger images are reduced to N pixels (default: the processor's)"
    )
    parser.add_argument(
        "--log-dir",
        type=Path,
        default=None,
        metavar="DIR",
        help="append every answer with its question, without images, to DIR/answers.jsonl (default: nothing is stored)",
    )
    add_study_options(parser)


def _add_address(parser: argparse.ArgumentParser) -> None:
    address = parser.add_argument_group("who may call it")
    address.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; any but this machine's needs a key (default: %(default)s)"
    )
    address.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    key = address.add_mutually_exclusive_group()
    key.add_argument("--api-key-file", type=Path, default=None, metavar="FILE", help="a file with the key on one line")
    key.add_argument("--api-key", default=None, metavar="KEY", help="the key; other users of this machine can see it, a file they cannot")
    address.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="a site whose pages may call the server, such as https://chat.example.org; may be repeated (default: none)",
    )
    address.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name of this server that clients may call it by, such as that of a proxy; may be repeated",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("how much at a time")
    limits.add_argument("--max-batch", type=int, default=64, metavar="N", help="completions at a time (default: %(default)s)")
    limits.add_argument(
        "--max-queue", type=int, default=256, metavar="N", help="requests that wait; further ones get status 429 (default: %(default)s)"
    )
    limits.add_argument(
        "--max-context", type=int, default=2048, metavar="N", help="tokens of a prompt and its completion together (default: %(default)s)"
    )
    limits.add_argument("--max-tokens", type=int, default=4096, metavar="N", help="of a completion (default: %(default)s)")
    limits.add_argument(
        "--timeout", type=float, default=600.0, metavar="SECONDS", help="for an answer, waiting included (default: %(default)s)"
    )


def _run(options: argparse.Namespace) -> Mapping[str, Any]:
    _check_extra()
    if options.study is None and options.overrides:
        raise ConfigError(f"{options.overrides[0]} sets a recipe, and only --study has one: see osler serve --help")
    if options.study is None and options.readers is not None:
        raise ConfigError("--readers is for a reader study: name its questions with --study")
    settings = _read_settings(options)
    with closing(_listen(settings)) as listener:
        settings = replace(settings, port=listener.getsockname()[1])
        if options.study is not None:
            return run_study(options, settings, listener)
        return _serve(options, settings, listener)


def _serve(options: argparse.Namespace, settings: ServerSettings, listener: socket.socket) -> Mapping[str, Any]:
    """Load the policy and serve it until a signal comes."""
    from osler.config import build_config
    from osler.serving.app import create_app
    from osler.serving.batch_settings import BatchSettings
    from osler.serving.batching import open_generator
    from osler.serving.server import LOGGING, Server
    from osler.serving.settings import DISCLAIMER

    values = {"path": options.policy, "device": options.device, "dtype": options.dtype, "max_pixels": options.max_pixels}
    policy = build_config({"policy": values}).policy
    limits = BatchSettings.of(max_rows=options.max_batch, max_queued=options.max_queue, max_context=options.max_context)
    say_loading(printable(policy.path))
    with closing(open_generator(policy, limits)) as generator:
        app = create_app(settings, generator)

        def say() -> None:
            print(f"{generator.policy_name} answers at {settings.url} (API: {settings.url}/v1). {DISCLAIMER} Ctrl+C stops it.", flush=True)

        Server(app, log_config=LOGGING, on_start=say, on_abort=generator.close).run(sockets=[listener])
    return {"url": settings.url, "policy": generator.policy_name, "fingerprint": generator.policy_fingerprint}


def _check_extra() -> None:
    """Raise MissingExtra where a package of the server is not installed."""
    for package in _NEEDED:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, "serve")


def _read_settings(options: argparse.Namespace) -> ServerSettings:
    """Raises ConfigError for values that are out of range or do not go together."""
    from osler.serving.settings import ServerSettings

    for name in ("max_batch", "max_queue", "max_context", "max_tokens", "timeout"):
        if not 0 < getattr(options, name) < float("inf"):
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(options, name)}: give a number above 0")
    for origin in options.cors_origin:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ConfigError(f"--cors-origin {origin[:100]} is no site: give one such as https://chat.example.org, without a path")
    if not 0 <= options.port < 65_536:
        raise ConfigError(f"--port {options.port}: give a number from 0 to 65535")
    return ServerSettings(
        host=options.host,
        port=options.port,
        api_key=_api_key(options),
        allowed_hosts=tuple(options.allow_host),
        cors_origins=tuple(options.cors_origin),
        log_dir=options.log_dir,
        max_requests=options.max_batch + options.max_queue,
        request_seconds=options.timeout,
        drain_seconds=options.timeout,
        max_text=32 * options.max_context,
        max_tokens=options.max_tokens,
        default_tokens=min(1024, options.max_tokens),
    )


def _api_key(options: argparse.Namespace) -> str | None:
    """The key that requests must send. The addresses of a reader study are keys themselves: other routes get one that nobody knows."""
    from osler.evaluation.endpoint import read_key

    if options.api_key_file is not None:
        return read_key(options.api_key_file)
    return secrets.token_hex(16) if options.study is not None and options.api_key is None else options.api_key


def _listen(settings: ServerSettings) -> socket.socket:
    """The socket of the server, so that a port that is taken is known before a policy is loaded. Raises ConfigError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--host {settings.host} is no address of this machine ({error}): use 127.0.0.1 or 0.0.0.0") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {settings.url} ({error.strerror}): give another --port or --host") from None
    return listener
