"""Two samples compared: shares of failures, and times. Significance, size of effect, and how many
requests a stated effect needs.

Each trial makes two comparisons at once, so each is made at half the error rate (Bonferroni's
correction). The rate holds for one look. A person who looks again and again, and stops at the first
difference, errs more often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, median
from typing import Final, Literal

Word = Literal["too early", "better", "worse", "no difference"]

ERROR_RATE: Final = 0.05
"""How often a trial of two equal versions may end in "better" or "worse"."""
ALPHA: Final = ERROR_RATE / 2
"""The same for each of the two comparisons, at both sides together."""
POWER: Final = 0.8
"""How often the smallest effect is found, once there are enough requests."""
SMALLEST_SHARE: Final = 0.05
"""The smallest effect on failures that is looked for: five of a hundred requests more."""
SMALLEST_ODDS: Final = 0.6
"""The smallest effect on times that counts: in 60 of 100 pairs one version is the slower one."""
_FEW_EXPECTED: Final = 5
_FEWEST_SHARE: Final = 0.01  # a champion without a failure yet is taken to fail as often

_NORMAL: Final = NormalDist()
_Z_ALPHA: Final = _NORMAL.inv_cdf(1 - ALPHA / 2)
_Z_POWER: Final = _NORMAL.inv_cdf(POWER)


@dataclass(frozen=True)
class Failures:
    """The failures of the trial's version against the champion's.

    ``difference`` is the share of the trial's less the champion's; ``low`` and ``high`` are its
    confidence interval of 1 - ``ALPHA``. ``needed`` are the requests of the trial that the smallest
    effect takes.
    """

    champion_requests: int
    champion_failures: int
    trial_requests: int
    trial_failures: int
    difference: float
    low: float
    high: float
    p_value: float
    needed: int
    word: Word

    @property
    def sentence(self) -> str:
        """For people."""
        low, high = 100 * self.low, 100 * self.high
        return (
            f"Failures, {self.word}: {self.trial_failures} of {self.trial_requests} requests, the "
            f"champion's {self.champion_failures} of {self.champion_requests}. The difference is "
            f"{100 * self.difference:+.2f} points ({100 * (1 - ALPHA):g} % confidence: {low:+.2f} "
            f"to {high:+.2f}, p {self.p_value:.2g})."
        )


def compare_failures(champion: tuple[int, int], trial: tuple[int, int], percent: int) -> Failures:
    """Compare shares of failures by the two-proportion z-test, or Fisher's exact test where
    failures are few, with Newcombe's interval of the difference. A difference counts where test and
    interval agree.

    Sources: Fleiss, Levin, Paik, "Statistical Methods for Rates and Proportions" (2003), chapters 3
    and 4, for the tests and the number of requests; Cochran, Biometrics 10 (1954), 417-451, for
    what is few: less than five expected on a side; Newcombe, Statistics in Medicine 17 (1998),
    873-890, method 10, for the interval.

    Args:
        champion: its failures and its requests.
        trial: the same of the trial's version.
        percent: the trial's share of the requests.
    """
    (failed, asked), (trial_failed, trial_asked) = champion, trial
    share = failed / asked if asked else 0.0
    trial_share = trial_failed / trial_asked if trial_asked else 0.0
    needed = _needed_for_failures(share, percent)
    low, high = _newcombe(champion, trial)
    p_value = _p_value(champion, trial) if asked and trial_asked else 1.0
    word: Word = "no difference"
    if trial_asked < needed or asked < needed:
        word = "too early"
    elif p_value < ALPHA and not low <= 0 <= high:
        word = "worse" if trial_share > share else "better"
    return Failures(
        asked,
        failed,
        trial_asked,
        trial_failed,
        trial_share - share,
        low,
        high,
        p_value,
        needed,
        word,
    )


def _p_value(champion: tuple[int, int], trial: tuple[int, int]) -> float:
    (failed, asked), (trial_failed, trial_asked) = champion, trial
    pooled = (failed + trial_failed) / (asked + trial_asked)
    if min(asked, trial_asked) * min(pooled, 1 - pooled) < _FEW_EXPECTED:
        return _fisher(failed + trial_failed, trial_failed, asked + trial_asked, trial_asked)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / asked + 1 / trial_asked))
    return _two_sided((trial_failed / trial_asked - failed / asked) / spread)


def _fisher(failures: int, of_trial: int, requests: int, trial_requests: int) -> float:
    """The two-sided p-value: how likely the failures fall on the two sides as they did, or in a way
    that is no likelier."""

    def chance(count: int) -> float:
        return math.exp(
            _log_choose(failures, count)
            + _log_choose(requests - failures, trial_requests - count)
            - _log_choose(requests, trial_requests)
        )

    fewest, most = max(0, trial_requests - (requests - failures)), min(failures, trial_requests)
    seen = chance(of_trial) * (1 + 1e-7)  # a tie in exact numbers
    every = map(chance, range(fewest, most + 1))
    return min(1.0, math.fsum(one for one in every if one <= seen))


def _log_choose(total: int, some: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(some + 1) - math.lgamma(total - some + 1)


def _needed_for_failures(share: float, percent: int) -> int:
    """The trial's requests after which ``SMALLEST_SHARE`` is found with ``POWER`` (Fleiss, formula
    4.19 with unequal samples)."""
    before = min(max(share, _FEWEST_SHARE), 1 - SMALLEST_SHARE)
    after, ratio = before + SMALLEST_SHARE, (100 - percent) / percent
    mean = (after + ratio * before) / (1 + ratio)
    equal = _Z_ALPHA * math.sqrt((1 + 1 / ratio) * mean * (1 - mean))
    other = _Z_POWER * math.sqrt(after * (1 - after) + before * (1 - before) / ratio)
    return math.ceil(((equal + other) / SMALLEST_SHARE) ** 2)


def _newcombe(champion: tuple[int, int], trial: tuple[int, int]) -> tuple[float, float]:
    (failed, asked), (trial_failed, trial_asked) = champion, trial
    if not (asked and trial_asked):
        return -1.0, 1.0
    share, trial_share = failed / asked, trial_failed / trial_asked
    low, high = _wilson(failed, asked)
    trial_low, trial_high = _wilson(trial_failed, trial_asked)
    difference = trial_share - share
    return (
        difference - math.hypot(trial_share - trial_low, high - share),
        difference + math.hypot(trial_high - trial_share, share - low),
    )


def _wilson(failed: int, asked: int) -> tuple[float, float]:
    share, squared = failed / asked, _Z_ALPHA**2
    centre = (share + squared / (2 * asked)) / (1 + squared / asked)
    half = _Z_ALPHA * math.sqrt(share * (1 - share) / asked + squared / (4 * asked**2))
    half /= 1 + squared / asked
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Times:
    """The times of the trial's version against the champion's, in milliseconds.

    ``slower`` is how often the trial's version is the slower one of a pair, ties counting half.
    ``needed`` are the answers of the trial that the smallest effect takes.
    """

    champion_answers: int
    trial_answers: int
    champion_median: float
    trial_median: float
    slower: float
    p_value: float
    needed: int
    word: Word

    @property
    def difference(self) -> float:
        """The trial's median less the champion's, in milliseconds."""
        return self.trial_median - self.champion_median

    @property
    def sentence(self) -> str:
        """For people."""
        return (
            f"Times, {self.word}: median {self.trial_median:.1f} ms, the champion's "
            f"{self.champion_median:.1f} ms, {self.difference:+.1f} ms. It is the slower one in "
            f"{100 * self.slower:.0f} of 100 pairs (p {self.p_value:.2g})."
        )


def compare_times(champion: Sequence[float], trial: Sequence[float], percent: int) -> Times:
    """Compare times by the test of Mann and Whitney, in its normal approximation with the
    correction for ties. A difference counts if it is significant, and no smaller than
    ``SMALLEST_ODDS``.

    Sources: Mann, Whitney, Annals of Mathematical Statistics 18 (1947), 50-60; Hollander, Wolfe,
    Chicken, "Nonparametric Statistical Methods" (2013), 4.1, for ties; Noether, Journal of the
    American Statistical Association 82 (1987), 645-647, for the number of answers.

    Args:
        champion: the milliseconds of its answers.
        trial: those of the trial's version.
        percent: the trial's share of the requests.
    """
    portion = percent / 100
    both = (_Z_ALPHA + _Z_POWER) ** 2 / (12 * portion * (1 - portion) * (SMALLEST_ODDS - 0.5) ** 2)
    needed = math.ceil(both * portion)
    if not champion or not trial:
        nothing = median(champion) if champion else 0.0, median(trial) if trial else 0.0
        return Times(len(champion), len(trial), *nothing, 0.5, 1.0, needed, "too early")
    slower, p_value = mann_whitney(champion, trial)
    word: Word = "no difference"
    if len(trial) < needed or len(champion) < needed:
        word = "too early"
    elif p_value < ALPHA and abs(slower - 0.5) >= SMALLEST_ODDS - 0.5:
        word = "worse" if slower > 0.5 else "better"
    return Times(
        len(champion), len(trial), median(champion), median(trial), slower, p_value, needed, word
    )


def mann_whitney(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """How often a value of ``second`` is the larger one of a pair, ties counting half, and the
    two-sided p-value of the hypothesis that it is in half of the pairs."""
    ordered = sorted([(value, False) for value in first] + [(value, True) for value in second])
    total, ranks, ties, place = len(ordered), 0.0, 0.0, 0
    while place < total:
        end = place
        while end < total and ordered[end][0] == ordered[place][0]:
            end += 1
        alike = end - place
        rank = (place + 1 + end) / 2
        ranks += rank * sum(of_second for _, of_second in ordered[place:end])
        ties += alike**3 - alike
        place = end
    pairs = len(first) * len(second)
    larger = ranks - len(second) * (len(second) + 1) / 2
    variance = pairs / 12 * ((total + 1) - ties / (total * (total - 1)))
    if variance <= 0:
        return 0.5, 1.0  # all values are alike
    away = max(0.0, abs(larger - pairs / 2) - 0.5)  # corrected for continuity
    return larger / pairs, _two_sided(away / math.sqrt(variance))


def _two_sided(z: float) -> float:
    return 2 * (1 - _NORMAL.cdf(abs(z)))
