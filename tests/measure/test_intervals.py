import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from qbench.measure.intervals import mean_interval, paired_difference, wilson_interval

Z = 1.959963984540054  # two-sided 95 %


def outcomes(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = np.repeat([True, True, False, False], [both, only_a, only_b, neither])
    b = np.repeat([True, False, True, False], [both, only_a, only_b, neither])
    return a, b


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    # R. G. Newcombe, "Two-sided confidence intervals for the single proportion", Stat. Med. 17 (1998), method 3
    [(81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (0, 20, 0.0, 16.11), (1, 29, 0.61, 17.18)],
)
def test_wilson_published_examples(correct: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(correct, n) == pytest.approx((low, high), abs=0.005)  # printed to two decimals


def test_wilson_widens_with_confidence() -> None:
    narrow, wide = wilson_interval(50, 100, 0.8), wilson_interval(50, 100, 0.99)
    assert wide[0] < narrow[0] < 50 < narrow[1] < wide[1]


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_share(correct: int, n: int) -> None:
    with pytest.raises(ValueError, match="not a share"):
        wilson_interval(correct, n)


def test_paired_published_example() -> None:
    # Cavo et al. (2012), worked in Fagerland, Lydersen, Laake, "Statistical Analysis of Contingency Tables", ch. 8
    found = paired_difference(*outcomes(59, 6, 16, 80))
    assert found.difference_points == pytest.approx(-100 * 10 / 161)
    assert (found.low, found.high) == pytest.approx((-12.40, -0.54), abs=0.005)
    assert found.p_value == pytest.approx(0.052479, abs=5e-7)


def score(delta: float, only_a: int, only_b: int, n: int) -> float:
    """Tango's statistic, with the restricted estimate found by maximising the likelihood rather than by its formula."""

    def minus_log_likelihood(q: float) -> float:
        terms = [(only_a, q + delta), (only_b, q), (n - only_a - only_b, 1 - 2 * q - delta)]
        return -sum(count * math.log(p) for count, p in terms if count)

    bounds = (max(0.0, -delta) + 1e-12, (1 - delta) / 2 - 1e-12)
    q = minimize_scalar(minus_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    return (only_a - only_b - n * delta) / math.sqrt(n * (2 * q + delta * (1 - delta)))


@pytest.mark.parametrize(("only_a", "only_b", "n"), [(6, 16, 161), (1, 2, 10), (5, 3, 40), (30, 10, 1000), (7, 7, 20)])
def test_paired_limits_are_where_the_score_is_z(only_a: int, only_b: int, n: int) -> None:
    found = paired_difference(*outcomes(n - only_a - only_b, only_a, only_b, 0))
    # the numerical maximum is known to about 1e-8, the square root of the precision of the likelihood
    assert score(found.low / 100, only_a, only_b, n) == pytest.approx(Z, abs=1e-5)
    assert score(found.high / 100, only_a, only_b, n) == pytest.approx(-Z, abs=1e-5)


def test_paired_invariants_for_every_table_of_up_to_nine_images() -> None:
    for n in range(1, 10):
        for only_a in range(n + 1):
            for only_b in range(n - only_a + 1):
                found = paired_difference(*outcomes(n - only_a - only_b, only_a, only_b, 0))
                swapped = paired_difference(*outcomes(0, only_b, only_a, n - only_a - only_b))
                assert -100 <= found.low <= found.difference_points <= found.high <= 100
                assert found.low < found.high
                assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low), abs=1e-9)
                assert swapped.p_value == found.p_value
                if only_a != only_b:  # belongs to McNemar's test: 0 lies outside where the statistic exceeds z^2
                    significant = (only_a - only_b) ** 2 / (only_a + only_b) > Z**2
                    assert (found.low > 0 or found.high < 0) == significant


def test_networks_that_never_differ() -> None:
    found = paired_difference(*outcomes(80, 0, 0, 20))
    limit = 100 * Z**2 / (100 + Z**2)
    assert (found.difference_points, found.p_value) == (0.0, 1.0)
    assert (found.low, found.high) == pytest.approx((-limit, limit), rel=1e-9)


def test_networks_that_always_differ() -> None:
    found = paired_difference(*outcomes(0, 10, 0, 0))
    assert (found.difference_points, found.high) == (100.0, 100.0)
    assert found.p_value == pytest.approx(2 / 2**10)


def test_paired_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    runs, truth = 2000, 100 * (0.08 - 0.04)
    covered = 0
    for both, only_a, only_b, neither in rng.multinomial(200, [0.8, 0.08, 0.04, 0.08], size=runs):
        found = paired_difference(*outcomes(both, only_a, only_b, neither))
        covered += found.low <= truth <= found.high
    # four standard errors of a share of 0.95 among 2000 are 0.0195
    assert covered / runs == pytest.approx(0.95, abs=0.0195)


def test_pairing_is_used() -> None:
    aligned = paired_difference(*outcomes(85, 5, 0, 10))
    crossed = paired_difference(*outcomes(78, 12, 7, 3))  # the same two accuracies, 90 and 85
    assert aligned.difference_points == crossed.difference_points == 5.0
    assert aligned.high - aligned.low < crossed.high - crossed.low


@pytest.mark.parametrize(
    ("a", "b"),
    [
        pytest.param([True], [True, False], id="lengths"),
        pytest.param([1, 0], [True, False], id="not bool"),
        pytest.param(np.zeros(0, dtype=bool), np.zeros(0, dtype=bool), id="empty"),
        pytest.param([[True]], [[True]], id="two axes"),
    ],
)
def test_paired_refuses_what_is_not_paired(a: list[bool], b: list[bool]) -> None:
    with pytest.raises(ValueError, match="two bool arrays"):
        paired_difference(a, b)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_confidence_is_a_share(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence must lie"):
        paired_difference([True], [True], confidence)


def test_mean_interval_by_hand() -> None:
    # mean 3, standard error sqrt(2.5 / 5), t(0.975, 4 degrees of freedom) = 2.776445
    half = 2.776445 * math.sqrt(0.5)
    assert mean_interval([1, 2, 3, 4, 5]) == pytest.approx((3 - half, 3 + half), abs=1e-6)


def test_mean_interval_of_one_seed_is_unknown() -> None:
    assert mean_interval([93.1]) is None


def test_mean_interval_of_equal_values_has_no_width() -> None:
    assert mean_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)


@pytest.mark.parametrize("values", [[], [1.0, math.nan]], ids=["none", "nan"])
def test_mean_interval_refuses(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one value, all of them finite"):
        mean_interval(values)
