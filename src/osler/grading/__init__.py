"""From a completion to a verdict and a reward: the one parser and grader of training and evaluation."""

from osler.grading.fact_check import check
from osler.grading.grade import grade
from osler.grading.parse import Parsed, Source, parse
from osler.grading.rewards import REWARDS, RewardFunction, completion_text, register_reward, resolve_rewards
from osler.grading.statements import judge, read_statements

__all__ = [
    "REWARDS",
    "Parsed",
    "RewardFunction",
    "Source",
    "check",
    "completion_text",
    "grade",
    "judge",
    "parse",
    "read_statements",
    "register_reward",
    "resolve_rewards",
]
