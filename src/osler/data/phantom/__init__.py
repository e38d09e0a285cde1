"""Synthetic medical images with known ground truth: eight modalities, five question types, no download.

`build_samples` makes questions that only the pixels can answer; `PhantomImage` draws one picture from a seed and an index.
"""

from osler.data.phantom.atlas import GRADES, LOCATIONS, NORMAL, Atlas, Findings
from osler.data.phantom.canvas import Difficulty
from osler.data.phantom.images import ATLASES, PhantomImage
from osler.data.phantom.questions import build_samples

__all__ = ["ATLASES", "GRADES", "LOCATIONS", "NORMAL", "Atlas", "Difficulty", "Findings", "PhantomImage", "build_samples"]
