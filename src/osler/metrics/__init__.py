"""Metrics over many records: accuracy, paired comparisons, image gain, matrices, calibration and selective answering.

All values are shares of one; `percent` and `points` print them in per cent and percentage points. All intervals are 95 % intervals. That
of a share is Wilson's (1927), made wider if several questions share an image or a subject; those of averages and differences are computed
from the limits of the shares (Newcombe 1998; Zou, Huang and Zhang 2009), so that none is a single point at 0 or 100 %. A metric of no
records is None, which prints as a dash, never 0.0.
"""

from osler.metrics.accuracy import GroupKey, Summary, accuracy, chance, group, is_correct, mean_accuracy, summarize, taxonomy_order
from osler.metrics.calibration import Calibration, calibrate, multiclass_brier
from osler.metrics.clusters import Unit, cluster
from osler.metrics.confidence import ConfidenceSource, RatedAnswer, confidence_sources, rate_answers
from osler.metrics.coverage import Abstention, CoveragePoint, abstain, choose_threshold, coverage_curve, risk_coverage_area, split_clusters
from osler.metrics.estimates import DASH, Estimate, Proportion, average, few_clusters, mean, p_value, percent, points, proportion
from osler.metrics.gain import BLIND_POLICIES, ImageGain, guess_credits, image_gain, record_credits
from osler.metrics.matrices import MatrixDifference, MatrixGains, MatrixMeans, matrix_difference, matrix_gains, matrix_means
from osler.metrics.overlap import OpenSummary, rouge_l, summarize_open, token_f1
from osler.metrics.paired import PairedDifference, holm, paired_difference
from osler.metrics.power import minimum_detectable_difference, paired_power
from osler.metrics.rotations import Circular, rotation_id, summarize_rotations

__all__ = [
    "BLIND_POLICIES",
    "DASH",
    "Abstention",
    "Calibration",
    "Circular",
    "ConfidenceSource",
    "CoveragePoint",
    "Estimate",
    "GroupKey",
    "ImageGain",
    "MatrixDifference",
    "MatrixGains",
    "MatrixMeans",
    "OpenSummary",
    "PairedDifference",
    "Proportion",
    "RatedAnswer",
    "Summary",
    "Unit",
    "abstain",
    "accuracy",
    "average",
    "calibrate",
    "chance",
    "choose_threshold",
    "cluster",
    "confidence_sources",
    "coverage_curve",
    "few_clusters",
    "group",
    "guess_credits",
    "holm",
    "image_gain",
    "is_correct",
    "matrix_difference",
    "matrix_gains",
    "matrix_means",
    "mean",
    "mean_accuracy",
    "minimum_detectable_difference",
    "multiclass_brier",
    "p_value",
    "paired_difference",
    "paired_power",
    "percent",
    "points",
    "proportion",
    "rate_answers",
    "record_credits",
    "risk_coverage_area",
    "rotation_id",
    "rouge_l",
    "split_clusters",
    "summarize",
    "summarize_open",
    "summarize_rotations",
    "taxonomy_order",
    "token_f1",
]
