"""How lmms-eval asks and grades Osler's questions."""

import osler


def doc_to_visual(doc):
    """The pictures of a question, in order."""
    return [picture.convert("RGB") for picture in doc["images"]]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    """The prompt, rendered when the task was exported."""
    return doc["prompt"]


def process_results(doc, results):
    """Three metrics of one completion, each 0 or 1."""
    verdict = osler.grade(results[0], choices=tuple(doc["choices"]), target=doc["target"], strategy=doc["strategy"])
    return {
        "accuracy": float(verdict.outcome == "correct"),
        "answered": float(verdict.outcome in ("correct", "incorrect")),
        "well_formed": float(verdict.is_well_formed),
    }
