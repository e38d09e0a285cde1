"""Power of McNemar's test: how large a difference of two evaluations must be to be detected with a given number of questions.

In all functions `discordance` is the share of questions that are right in exactly one of the two evaluations, e.g.
`PairedDifference.discordance` of a pilot; `design_effect` is the factor by which questions that share images or subjects increase the
variance (see `clusters.design_effect`), 1 for independent questions; `alpha` is the significance level.
"""

from __future__ import annotations

from math import sqrt

from osler.errors import DataError


def paired_power(difference: float, *, num_samples: int, discordance: float, alpha: float = 0.05, design_effect: float = 1.0) -> float:
    """The probability, e.g. 0.80, that McNemar's two-sided test on `num_samples` questions detects a true `difference`, a share of one.

    Connett, Smith and McHugh (1987), https://doi.org/10.1002/sim.4780060207. Raises DataError for arguments out of range.
    """
    from statsmodels.stats.power import normal_power_het

    _check(discordance=discordance, alpha=alpha, design_effect=design_effect, num_samples=num_samples)
    if abs(difference) > discordance:
        raise DataError(f"a difference of {difference} needs a discordance of at least {abs(difference)}, not {discordance}")
    if discordance == 0:
        return alpha
    # If the difference equals the discordance, all changes have the same direction and only their number varies.
    spread = max(sqrt(max(0.0, discordance - difference**2)), 1e-9)
    size = num_samples / design_effect
    return float(normal_power_het(difference, size, alpha, std_null=sqrt(discordance), std_alternative=spread))


def minimum_detectable_difference(
    num_samples: int, discordance: float, *, power: float = 0.8, alpha: float = 0.05, design_effect: float = 1.0
) -> float | None:
    """The smallest true difference, a share of one, that McNemar's test detects with probability `power`.

    For example 0.054 for 600 questions with a discordance of 0.22. None if even a difference as large as the discordance is detected less
    often. Raises DataError for arguments out of range.
    """
    from scipy.optimize import brentq

    _check(discordance=discordance, alpha=alpha, design_effect=design_effect, num_samples=num_samples)
    if not alpha < power < 1:
        raise DataError(f"power is the chance to detect a true difference: use a number between alpha ({alpha}) and 1, not {power}")

    def missing_power(difference: float) -> float:
        reached = paired_power(difference, num_samples=num_samples, discordance=discordance, alpha=alpha, design_effect=design_effect)
        return reached - power

    if num_samples == 0 or missing_power(discordance) < 0:
        return None
    return float(brentq(missing_power, 0.0, discordance, xtol=1e-9))


def _check(*, discordance: float, alpha: float, design_effect: float, num_samples: int) -> None:
    if not 0 <= discordance <= 1:
        raise DataError(f"discordance is a share of questions: use a number from 0 to 1, not {discordance}")
    if not 0 < alpha < 1:
        raise DataError(f"alpha is the chance of a false positive: use a number between 0 and 1, not {alpha}")
    if not design_effect >= 1:
        raise DataError(f"a design effect is at least 1, not {design_effect}")
    if num_samples < 0:
        raise DataError(f"num_samples is a number of questions: it cannot be {num_samples}")
