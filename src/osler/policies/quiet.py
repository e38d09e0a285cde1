"""Suppressing what Transformers, PEFT and TRL print while they load, train and save; errors are still raised."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Suppress Transformers' progress bars and log messages, and a deprecation warning that PEFT causes in Transformers."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with _no_bars(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)


@contextmanager
def quiet_training() -> Iterator[None]:
    """Suppress the deprecation warnings that TRL 1.16 causes in Transformers, and the progress bar of each saved file."""
    with _no_bars(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(trl|transformers)\.")
        yield


@contextmanager
def _no_bars() -> Iterator[None]:
    from transformers.utils import logging

    had_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if had_bars:
            logging.enable_progress_bar()
