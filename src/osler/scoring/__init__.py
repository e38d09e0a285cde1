"""The one reader of answers: parse -> grade -> reward, for training, evaluation and serving alike."""

from osler.scoring.grade import grade
from osler.scoring.parse import Parsed, Source, parse
from osler.scoring.rewards import REWARDS, RewardFunction, completion_text, resolve_rewards

__all__ = ["REWARDS", "Parsed", "RewardFunction", "Source", "completion_text", "grade", "parse", "resolve_rewards"]
