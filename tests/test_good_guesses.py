"""What other libraries do between a file and a prompt, and what Osler does: rows that need Transformers or datasets.

The other rows of the table "Where good guesses are wrong" in docs/datasets.md stand in the tests of their own format.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, Image, load_dataset, load_from_disk
from PIL import Image as Pillow
from PIL import ImageDraw
from test_layouts import COMMON, read_rows

from osler.images.files import ImageFile
from osler.policies.processor import load_processor
from osler.policies.sources import PACKAGED_POLICIES
from osler.prompts import render
from osler.types import Sample


def test_all_slices_of_a_volume_reach_the_model_at_their_size(tmp_path: Path) -> None:
    """As a video, a processor would keep some of the frames and shrink them: slices are separate images."""
    from transformers import Qwen2VLProcessor

    processor = load_processor(PACKAGED_POLICIES / "osler-tiny", Qwen2VLProcessor)
    tones = np.arange(48) * 5
    for number, tone in enumerate(tones):
        Pillow.new("L", (112, 112), int(tone)).save(tmp_path / f"{number}.png")
    sample = Sample(
        id="s/0", dataset="s", images=tuple(ImageFile(root=tmp_path, path=f"{number}.png") for number in range(48)),
        question="Which slice?", choices=("Yes", "No"), target="A", modality=None, question_type=None,
    )  # fmt: skip
    text = processor.apply_chat_template(list(render(sample, "no_think").messages), tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], images=[source.load() for source in sample.images], return_tensors="pt")
    grids = inputs["image_grid_thw"]
    assert grids.tolist() == [grids[0].tolist()] * 48
    patches = inputs["pixel_values"].reshape(48, -1)
    scale = np.polyfit(tones, patches.mean(dim=1).numpy(), 1)
    np.testing.assert_allclose(patches.mean(dim=1).numpy(), np.polyval(scale, tones), atol=0.01)  # each of its own tone, in order
    assert scale[0] > 0


def black_box(picture: Any) -> Any:
    ImageDraw.Draw(picture).rectangle((0, 0, 19, 9), fill=(0, 0, 0))
    return picture


def test_an_edit_of_a_picture_is_in_every_export(tmp_path: Path) -> None:
    """datasets stores a picture that Pillow opened from a file by its path, so a box over a name is gone. Osler's pictures have no path."""
    Pillow.new("RGB", (40, 20), (200, 200, 200)).save(tmp_path / "a.png")
    edited = black_box(ImageFile(root=tmp_path, path="a.png").load())
    dataset = Dataset.from_dict({"image": [edited]}, features=Features({"image": Image()}))
    dataset.to_parquet(tmp_path / "rows.parquet")
    dataset.save_to_disk(tmp_path / "disk")
    copies = {
        "in memory": dataset,
        "map": dataset.map(lambda row: row, load_from_cache_file=False),
        "parquet": load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache"))["train"],
        "save_to_disk": load_from_disk(tmp_path / "disk"),
    }
    for name, copy in copies.items():
        pixels = np.asarray(copy[0]["image"])
        assert (pixels[:10, :20] == 0).all(), name
        assert (pixels[10:] == 200).all(), name


PARTS: dict[str, list[dict[str, Any]]] = {
    "as datasets fills it": [{"type": "image", "text": None, "image": None}, {"type": "text", "text": "Which technique?", "image": None}],
    "without a type": [{"type": "image"}, {"type": None, "text": None}, {"type": "text", "text": "Which technique?"}],
}


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_a_text_part_with_an_empty_image_is_one_text(tmp_path: Path, parts: list[dict[str, Any]]) -> None:
    row = {key: value for key, value in COMMON.items() if key not in ("question", "problem")}
    report = read_rows(tmp_path, row | {"image": "a.png", "messages": [{"role": "user", "content": parts}]})
    (sample,) = report.samples
    (message,) = render(sample, "no_think").messages
    assert [part["type"] for part in message["content"]] == ["image", "text"]
    assert message["content"][1]["text"].startswith("Which technique?\nA) CT")


def test_places_are_checked_for_each_question(tmp_path: Path) -> None:
    """Two questions with 1 and 2 places and 2 and 1 images have 3 of each together: a check of the totals passes them."""
    one = COMMON | {"image": ["a.png", "b.png"], "question": "<image> Which technique?"}
    two = COMMON | {"image": ["a.png"], "question": "<image><image> Which technique?"}
    report = read_rows(tmp_path, one, two)
    assert report.samples == ()
    assert len(report.refused) == 2
