"""Numbers over many records: accuracy with its interval, paired comparisons, image gain, matrices, calibration and abstention.

Every interval is a 95 % one. A share has Wilson's (1927), widened where several questions are about one image or subject; averages and
differences are put together from such limits (Newcombe 1998; Zou, Huang and Zhang 2009), so that none collapses to a point at 0 or 100 %.
An empty cell has no value: None, which prints as a dash, never 0.0.
"""

from osler.metrics.accuracy import (
    GroupKey,
    Summary,
    accuracy,
    bootstrap_accuracy,
    chance,
    group,
    is_correct,
    macro_average,
    summarize,
    table,
    taxonomy_order,
)
from osler.metrics.calibration import Bin, Calibration, calibrate, expected_calibration_error, multiclass_brier
from osler.metrics.clusters import Unit, cluster
from osler.metrics.confidence import ConfidenceSource, Rated, rate, sources_of
from osler.metrics.coverage import Abstention, CoveragePoint, abstain, choose_threshold, coverage_curve, risk_coverage_area, split_clusters
from osler.metrics.estimates import DASH, Estimate, Proportion, average, mean, p_value, percent, points, proportion
from osler.metrics.gain import BLIND_POLICIES, GUESSING, ImageGain, guess_credits, image_gain, record_credits
from osler.metrics.matrices import (
    CellDifference,
    MatrixDifference,
    MatrixGains,
    MatrixMeans,
    matrix_difference,
    matrix_gains,
    matrix_means,
)
from osler.metrics.paired import PairedDifference, bootstrap_difference, holm, paired_difference
from osler.metrics.power import minimum_detectable_difference, paired_power, required_samples

__all__ = [
    "BLIND_POLICIES",
    "DASH",
    "GUESSING",
    "Abstention",
    "Bin",
    "Calibration",
    "CellDifference",
    "ConfidenceSource",
    "CoveragePoint",
    "Estimate",
    "GroupKey",
    "ImageGain",
    "MatrixDifference",
    "MatrixGains",
    "MatrixMeans",
    "PairedDifference",
    "Proportion",
    "Rated",
    "Summary",
    "Unit",
    "abstain",
    "accuracy",
    "average",
    "bootstrap_accuracy",
    "bootstrap_difference",
    "calibrate",
    "chance",
    "choose_threshold",
    "cluster",
    "coverage_curve",
    "expected_calibration_error",
    "group",
    "guess_credits",
    "holm",
    "image_gain",
    "is_correct",
    "macro_average",
    "matrix_difference",
    "matrix_gains",
    "matrix_means",
    "mean",
    "minimum_detectable_difference",
    "multiclass_brier",
    "p_value",
    "paired_difference",
    "paired_power",
    "percent",
    "points",
    "proportion",
    "rate",
    "record_credits",
    "required_samples",
    "risk_coverage_area",
    "sources_of",
    "split_clusters",
    "summarize",
    "table",
    "taxonomy_order",
]
