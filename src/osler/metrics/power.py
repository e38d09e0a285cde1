"""How small a difference between two runs can be told from chance: McNemar's test before it is made.

`discordance` is the share of questions on which the two runs differ in being right, `PairedDifference.discordance` of a pilot.
`design_effect` says how many times as many questions are needed because they share images or subjects; 1 where they do not.
"""

from __future__ import annotations

from math import ceil, sqrt

from osler.errors import DataError


def paired_power(difference: float, *, num_samples: int, discordance: float, alpha: float = 0.05, design_effect: float = 1.0) -> float:
    """The chance that McNemar's two-sided test finds a true `difference` on `num_samples` questions, e.g. 0.80.

    Connett, Smith and McHugh (1987), https://doi.org/10.1002/sim.4780060207. Raises DataError for shares that cannot be.
    """
    from statsmodels.stats.power import normal_power_het

    _require(discordance=discordance, alpha=alpha, design_effect=design_effect, num_samples=num_samples)
    if abs(difference) > discordance:
        raise DataError(f"a difference of {difference} needs a discordance of at least {abs(difference)}, not {discordance}")
    if discordance == 0:
        return alpha
    # Under a difference as large as the discordance every change goes one way, and nothing but the number of changes varies.
    spread = max(sqrt(max(0.0, discordance - difference**2)), 1e-9)
    size = num_samples / design_effect
    return float(normal_power_het(difference, size, alpha, std_null=sqrt(discordance), std_alternative=spread))


def minimum_detectable_difference(
    num_samples: int, discordance: float, *, power: float = 0.8, alpha: float = 0.05, design_effect: float = 1.0
) -> float | None:
    """The smallest true difference that McNemar's test finds with this power, e.g. 0.054 for 600 questions of which 22 % change.

    None where even a difference as large as the discordance would be missed too often. Raises DataError for shares that cannot be.
    """
    from scipy.optimize import brentq

    _require(discordance=discordance, alpha=alpha, design_effect=design_effect, num_samples=num_samples)
    if not alpha < power < 1:
        raise DataError(f"power is the chance to find what is there: between alpha ({alpha}) and 1, not {power}")

    def lack(difference: float) -> float:
        found = paired_power(difference, num_samples=num_samples, discordance=discordance, alpha=alpha, design_effect=design_effect)
        return found - power

    if num_samples == 0 or lack(discordance) < 0:
        return None
    return float(brentq(lack, 0.0, discordance, xtol=1e-9))


def required_samples(difference: float, discordance: float, *, power: float = 0.8, alpha: float = 0.05, design_effect: float = 1.0) -> int:
    """How many questions McNemar's test needs to find a true `difference` with this power. Raises DataError for shares that cannot be."""
    from statsmodels.stats.power import normal_sample_size_one_tail

    _require(discordance=discordance, alpha=alpha, design_effect=design_effect, num_samples=1)
    if not 0 < abs(difference) <= discordance:
        raise DataError(f"give a difference between 0 and the discordance ({discordance}), not {difference}")
    if not alpha < power < 1:
        raise DataError(f"power is the chance to find what is there: between alpha ({alpha}) and 1, not {power}")
    spread = max(sqrt(max(0.0, discordance - difference**2)), 1e-9)
    # The other tail adds nothing where there is power to speak of.
    size = normal_sample_size_one_tail(abs(difference), power, alpha / 2, std_null=sqrt(discordance), std_alternative=spread)
    return ceil(float(size) * design_effect)


def _require(*, discordance: float, alpha: float, design_effect: float, num_samples: int) -> None:
    if not 0 <= discordance <= 1:
        raise DataError(f"discordance is a share of questions: give a number from 0 to 1, not {discordance}")
    if not 0 < alpha < 1:
        raise DataError(f"alpha is the chance of a false finding: give a number between 0 and 1, not {alpha}")
    if not design_effect >= 1:
        raise DataError(f"a design effect is at least 1, not {design_effect}")
    if num_samples < 0:
        raise DataError(f"num_samples is a number of questions, not {num_samples}")
