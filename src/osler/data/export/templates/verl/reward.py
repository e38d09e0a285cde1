"""Osler's reward for verl: accuracy and format, each 0 or 1, summed. Needs `pip install osler` where verl runs.

    data.train_files=train.parquet data.val_files=test.parquet data.image_key=images
    custom_reward_function.path=reward.py custom_reward_function.name=compute_score
"""

import osler


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    """The reward of one completion, with its parts."""
    verdict = osler.grade(solution_str, choices=tuple(extra_info["choices"]), target=ground_truth, strategy=extra_info["strategy"], is_lenient=False)
    accuracy, form = float(verdict.outcome == "correct"), float(verdict.is_well_formed)
    return {"score": accuracy + form, "accuracy": accuracy, "format": form}
