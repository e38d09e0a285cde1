"""What every test shares: no network, one thread, and a tiny random-weight policy."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

# Read when the libraries are first imported, hence before any of them is.
os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
    }
)

# Set to nothing, as CI systems do, means not set.
if not os.environ.get("OSLER_TEST_DATA"):
    os.environ.pop("OSLER_TEST_DATA", None)

import pytest

gc.disable()  # until all tests are collected: what is imported stays, and every search through all of it takes most of a second


def pytest_collection_finish() -> None:
    """Keep what has been imported out of later garbage collections: every training collects once, and would search all modules."""
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2-VL of a hundred thousand random weights, as `save_pretrained` writes it."""
    from tiny_checkpoint import save_tiny

    return save_tiny(tmp_path_factory.mktemp("policies") / "tiny")


@pytest.fixture(autouse=True)
def _random_state() -> Iterator[None]:
    """Leave torch's random numbers as they were: a test must not depend on those before it."""
    import sys

    if (torch := sys.modules.get("torch")) is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        yield
