"""How sure a number is: intervals over images (one accuracy, a paired difference) and over seeds (a mean)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from scipy.optimize import brentq
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of a minus accuracy of b on the same images, in percentage points, and how sure it is.

    ``low`` and ``high`` bound the difference; ``p_value`` is McNemar's, exact and two-sided.
    """

    difference_points: float
    low: float
    high: float
    p_value: float


def wilson_interval(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of an accuracy over images, in percent.

    Args:
        correct: Images classified rightly, 0..n.
        n: Images, >= 1.
        confidence: In (0, 1).

    Raises:
        ValueError: an argument is outside its domain.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"{correct} of {n} is not a share of at least one image")
    low, high = proportion_confint(correct, n, alpha=1 - _checked(confidence), method="wilson")
    return 100.0 * float(low), 100.0 * float(high)


def paired_difference(correct_a: ArrayLike, correct_b: ArrayLike, confidence: float = 0.95) -> PairedDifference:
    """Compare two networks on the same images.

    The interval is Tango's score interval, the one that belongs to McNemar's test: it leaves out 0 exactly when the
    uncorrected McNemar statistic is significant at the same level. The p-value is McNemar's exact one, which is more
    cautious, so at the edge an interval may leave out 0 beside a p-value slightly above 1 - confidence.

    Args:
        correct_a: Whether a is right, bool [N], N >= 1.
        correct_b: Whether b is right on the same images in the same order, bool [N].
        confidence: In (0, 1).

    Returns:
        Difference a - b in points. Networks that are right on the same images give difference 0, p-value 1 and the
        interval +-100 z^2 / (N + z^2).

    Raises:
        ValueError: the arrays are empty, not boolean or differ in shape; confidence is outside (0, 1).

    Source: T. Tango, "Equivalence test and confidence interval for the difference in proportions for the
        paired-sample design", Statistics in Medicine 17 (1998). Compared with other intervals in M. W. Fagerland,
        S. Lydersen, P. Laake, "Recommended tests and confidence intervals for paired binomial proportions",
        Statistics in Medicine 33 (2014).
    """
    a, b = np.asarray(correct_a), np.asarray(correct_b)
    if a.dtype != np.bool_ or b.dtype != np.bool_ or a.ndim != 1 or a.shape != b.shape or len(a) == 0:
        raise ValueError(f"two bool arrays [N] are needed, not {a.dtype} {a.shape} and {b.dtype} {b.shape}")
    z = float(stats.norm.ppf(0.5 + _checked(confidence) / 2))
    n, only_a, only_b = len(a), int(np.sum(a & ~b)), int(np.sum(b & ~a))
    table = [[int(np.sum(a & b)), only_a], [only_b, int(np.sum(~a & ~b))]]
    return PairedDifference(
        difference_points=100.0 * (only_a - only_b) / n,
        low=-100.0 * _tango_upper(only_b, only_a, n, z),
        high=100.0 * _tango_upper(only_a, only_b, n, z),
        p_value=float(mcnemar(table, exact=True).pvalue),
    )


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Student's t interval of a mean over seeds.

    Args:
        values: One finite value per seed, at least one.
        confidence: In (0, 1).

    Returns:
        (low, high) in the unit of the values, of zero width when all are equal; None for a single value, which says
        nothing about spread.

    Raises:
        ValueError: no value, a value that is not finite, or confidence outside (0, 1).
    """
    _checked(confidence)
    if len(values) == 0 or not np.isfinite(values).all():
        raise ValueError("a mean needs at least one value, all of them finite")
    if len(values) == 1:
        return None
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.5 + confidence / 2, df=len(values) - 1) * stats.sem(values))
    return mean - half, mean + half


def _tango_upper(only_a: int, only_b: int, n: int, z: float) -> float:
    """Upper limit of Tango's interval for p_a - p_b: the delta at which the score statistic falls to -z.

    T(delta) = (only_a - only_b - n delta) / sqrt(n (2 q + delta (1 - delta))), where q is the maximum-likelihood
    estimate of P(only b is right) under p_a - p_b = delta, the larger root of 2n q^2 + B q + C = 0.
    The lower limit is minus the upper limit with a and b exchanged.
    """
    if only_a == n:
        return 1.0

    def excess(delta: float) -> float:  # > 0 while T(delta) > -z; without the division, which may be by zero
        b = -only_a - only_b + (2 * n - only_a + only_b) * delta
        c = -only_b * delta * (1 - delta)
        q = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        return only_a - only_b - n * delta + z * math.sqrt(max(n * (2 * q + delta * (1 - delta)), 0.0))

    # With no spread at the estimate itself, the estimate is a second, spurious root: start just beyond it. The limit
    # is never nearer than z^2 / (n + z^2), its distance when the two never differ.
    start = (only_a - only_b) / n + 0.01 * z * z / (n + z * z)
    return float(brentq(excess, start, 1.0, xtol=1e-12))


def _checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), not {confidence}")
    return confidence
