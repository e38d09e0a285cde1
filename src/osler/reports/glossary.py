"""The terms of the pages in plain words, shown below the sections in which they occur."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One entry."""

    title: str
    what: str


GLOSSARY: Final[Mapping[str, Term]] = MappingProxyType(
    {
        "accuracy": Term(
            title="Accuracy",
            what="The share of questions that were answered right. No answer and an answer that names two options count as not right.",
        ),
        "interval": Term(
            title="95 % interval, [73.1, 82.5]",
            what="The true value lies within it in about 95 of 100 such experiments. Fewer questions make it wider. Several questions "
            "about one image or one patient count as less than as many separate ones.",
        ),
        "guessing": Term(
            title="Guessing",
            what="What picking one of the options at random gets: 25 % with four options. No image and no model is needed.",
        ),
        "blind": Term(
            title="Blind baseline",
            what="A simple rule that answers without seeing the image, such as taking the option whose text was most often right in "
            "training. What it gets right shows nothing about reading images.",
        ),
        "option_prior": Term(
            title="Option prior",
            what="The blind baseline that knows only how often each option text was right in training: the right times plus 0.25, over the "
            "times shown plus 1. Options that tie share the credit.",
        ),
        "image_gain": Term(
            title="Image gain",
            what="Accuracy minus that of the best blind baseline on the same questions, in percentage points: what may be owed to the "
            "image. Where its interval holds 0, nothing shows that the policy looked. The best baseline is chosen on these very "
            "questions, which can only lower the gain.",
        ),
        "policy": Term(
            title="Policy, Zero-shot, SFT, GRPO",
            what="A policy is the model that answers. Zero-shot is the model before any training here; SFT was trained to repeat given "
            "answers; GRPO was trained by trial and reward.",
        ),
        "strategies": Term(
            title="Think, No-Think, Think-After",
            what="How a question is put: reason first and then answer, answer only, or answer first and then give reasons.",
        ),
        "in_domain": Term(
            title="In-domain", what="The policy was trained on questions of this kind. The other columns say how far it carries over."
        ),
        "p_value": Term(
            title="p, and Holm's p",
            what="How often a difference at least as large would come up by luck alone if there were none. With many comparisons some look "
            "good by luck; Holm's p allows for their number. Below 0.05 is called significant.",
        ),
        "detectable": Term(
            title="Detectable",
            what="The smallest true change that a test on as many questions would find four times in five. A smaller one may exist unseen.",
        ),
        "circular": Term(
            title="Circular accuracy",
            what="The share of questions answered right in every rotation of the options. A policy that favours a letter or a place cannot "
            "be right in all of them.",
        ),
        "same_answer": Term(title="Same answer", what="The share of questions whose answer stayed the same when something was altered."),
        "ece": Term(
            title="ECE, calibration error",
            what="Of answers given with a confidence of 80 %, 80 % should be right. ECE is the mean distance from that, over groups of "
            "answers of like confidence; 0 is perfect.",
        ),
        "brier": Term(
            title="Brier's score, AURC",
            what="Two further errors of confidence, 0 at best: the mean squared distance of confidence from being right, and the mean "
            "error of the surest answers over all numbers of answers.",
        ),
        "coverage": Term(
            title="Coverage",
            what="The share of questions that are answered when the policy may keep silent below a threshold of confidence.",
        ),
        "diagonal": Term(
            title="Diagonal and off-diagonal",
            what="Rows are where a policy was trained, columns where it was tested. On the diagonal, framed, both are the same; off it "
            "the policy meets something that it was not trained on.",
        ),
        "hatched": Term(
            title="Hatched cells: not significant",
            what="The figures of the cell could be luck: the interval of an image gain holds 0, or a difference is not significant at 5 % "
            "after Holm's correction over the cells of its matrix. Read nothing into their sign.",
        ),
        "leak": Term(
            title="Leak",
            what="A test question that shares its row, its image, a near-duplicate of it, or its patient with training: it can be answered "
            "from memory.",
        ),
        "near_duplicate": Term(
            title="Near-duplicate, patient or case",
            what="A near-duplicate is a picture whose perceptual hash (a fingerprint of how it looks) differs in a few of 64 bits. A "
            "patient or case is what the dataset says it is, or what a declared rule reads from the file names of a source.",
        ),
        "redrawn": Term(
            title="Redrawn questions",
            what="The same questions with wrong options drawn from right answers to other questions of the same modality and question "
            "type, so that a text says little about whether it is right.",
        ),
        "dash": Term(title="A dash", what="There is nothing to measure, such as where a file is absent. It is not zero."),
    }
)
"""By the name that a template asks for."""
