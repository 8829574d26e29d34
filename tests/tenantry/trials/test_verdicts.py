"""Verdicts on exchanges that were drawn: equal versions seldom differ, and a large difference is
found."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from scipy.stats import fisher_exact, mannwhitneyu

from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.models.registry import Champion
from tenantry.models.trial import MalformedTrialError, Trial
from tenantry.names import ids
from tenantry.trials.comparisons import ERROR_RATE, compare_failures, compare_times, mann_whitney
from tenantry.trials.exchanges import Exchange, Outcome, Side
from tenantry.trials.verdict import Fails, Truth, Verdict, judged

TENANT, NAME = ids.tenant_id("acme"), ids.workload_name("energy")
FIRST, SECOND = (
    ids.version_name(name) for name in ("20260101t000000-aaaaaaaa", "20260102t000000-bbbbbbbb")
)
AT = datetime(2026, 1, 3, 12, tzinfo=UTC)
UNTOLD = Truth(None, "no upload was prepared yet", "mase")
CHAMPION = Champion(
    TENANT, NAME, FIRST, MULTI_MODEL.route("e", TENANT, FIRST), "bridge", None, AT, 1
)


def trial(percent: int = 20) -> Trial:
    return Trial(SECOND, MULTI_MODEL.route("e", TENANT, SECOND), percent, AT, "test")


def exchanges(
    draw: random.Random,
    side: Side,
    count: int,
    failing: float = 0.02,
    milliseconds: Callable[[float], float] = lambda usual: usual,
) -> list[Exchange]:
    failure: Outcome = "failed" if side == "champion" else "failed-alone"
    return [
        Exchange(
            SECOND,
            side,
            failure if draw.random() < failing else "answered",
            milliseconds(draw.lognormvariate(3, 0.5)),
        )
        for _ in range(count)
    ]


def verdict(
    of_trial: list[Exchange], of_champion: list[Exchange], truth: Truth = UNTOLD
) -> Verdict:
    return judged(CHAMPION, trial(), [*of_champion, *of_trial], truth)


def test_versions_that_are_alike_differ_as_seldom_as_is_said() -> None:
    """A trial of 350 requests beside 1400, two hundred times. The bound leaves three standard
    deviations of a count at exactly the stated rate, so this fails for a test that errs more."""
    draw, times = random.Random(7), 200
    words = [
        verdict(exchanges(draw, "trial", 350), exchanges(draw, "champion", 1400)).word
        for _ in range(times)
    ]
    assert "too early" not in words
    wrong = sum(word != "no difference" for word in words)
    allowed = ERROR_RATE * times + 3 * (times * ERROR_RATE * (1 - ERROR_RATE)) ** 0.5
    assert wrong <= allowed, f"{wrong} of {times}"


@pytest.mark.parametrize(
    ("failing", "asked", "percent"),
    [(0.002, 600, 50), (0.02, 600, 50), (0.2, 1600, 50), (0.001, 90, 1)],
)
def test_failures_alone_differ_as_seldom_as_is_said(
    failing: float, asked: int, percent: int
) -> None:
    draw, times = random.Random(11), 400

    def failed(count: int) -> tuple[int, int]:
        return sum(draw.random() < failing for _ in range(count)), count

    others = round(asked * (100 - percent) / percent)
    words = [compare_failures(failed(others), failed(asked), percent).word for _ in range(times)]
    rate = ERROR_RATE / 2
    allowed = rate * times + 3 * (times * rate * (1 - rate)) ** 0.5
    assert "too early" not in words
    assert sum(word != "no difference" for word in words) <= allowed


@seed(1)
@settings(max_examples=10)
@given(numbers=st.integers(0, 2**32), share=st.floats(0, 0.05))
def test_a_large_difference_is_found_on_either_side(numbers: int, share: float) -> None:
    draw = random.Random(numbers)
    good = exchanges(draw, "trial", 900, failing=share)
    usual = exchanges(draw, "champion", 3600, failing=share)
    bad = exchanges(draw, "champion", 3600, failing=share + 0.1)
    found = verdict(good, bad)
    assert (found.failures.word, found.word) == ("better", "better")
    assert found.failures.high < 0
    failing = exchanges(draw, "trial", 900, failing=share + 0.1)
    assert verdict(failing, usual).failures.word == "worse"
    slow = exchanges(draw, "trial", 900, failing=share, milliseconds=lambda each: each * 1.6)
    found = verdict(slow, usual)
    assert (found.times.word, found.word) == ("worse", "worse")
    assert found.times.slower > 0.6
    assert found.times.difference > 0


@seed(2)
@given(
    first=st.lists(st.integers(0, 20), min_size=8, max_size=60),
    second=st.lists(st.integers(0, 20), min_size=8, max_size=60),
)
def test_the_rank_test_is_scipys(first: list[int], second: list[int]) -> None:
    slower, p_value = mann_whitney(first, second)
    reference = mannwhitneyu(second, first, method="asymptotic")
    assert slower == pytest.approx(reference.statistic / (len(first) * len(second)))
    if len({*first, *second}) > 1:
        assert p_value == pytest.approx(min(1.0, reference.pvalue), abs=1e-9)
    else:
        assert p_value == 1.0


@seed(6)
@given(counts=st.tuples(*[st.integers(1, 300)] * 2), failed=st.tuples(*[st.integers(0, 4)] * 2))
def test_few_failures_are_compared_as_scipy_does(
    counts: tuple[int, int], failed: tuple[int, int]
) -> None:
    (asked, trial_asked), (mine, its) = counts, map(min, failed, counts)
    found = compare_failures((mine, asked), (its, trial_asked), 20)
    pooled = (mine + its) / (asked + trial_asked)
    if min(asked, trial_asked) * min(pooled, 1 - pooled) < 5:
        table = [[mine, asked - mine], [its, trial_asked - its]]
        assert found.p_value == pytest.approx(fisher_exact(table).pvalue, rel=1e-6)


@seed(3)
@given(
    counts=st.tuples(*[st.integers(0, 3000)] * 2),
    failed=st.tuples(*[st.floats(0, 1)] * 2),
    percent=st.integers(1, 50),
)
def test_a_comparison_holds_for_any_counts(
    counts: tuple[int, int], failed: tuple[float, float], percent: int
) -> None:
    (asked, trial_asked), (share, trial_share) = counts, failed
    mine, its = (round(asked * share), asked), (round(trial_asked * trial_share), trial_asked)
    found = compare_failures(mine, its, percent)
    assert found.low <= found.difference <= found.high
    assert 0 <= found.p_value <= 1
    assert (found.word == "too early") == (min(asked, trial_asked) < found.needed)
    if found.word in {"better", "worse"}:
        assert (found.difference < 0) == (found.word == "better")


def test_a_small_difference_in_times_is_no_difference_however_sure() -> None:
    draw = random.Random(5)
    usual = [draw.lognormvariate(3, 0.5) for _ in range(20_000)]
    little_slower = [draw.lognormvariate(3, 0.5) * 1.08 for _ in range(20_000)]
    found = compare_times(usual, little_slower, 50)
    assert found.p_value < 0.001
    assert found.word == "no difference"


def test_before_there_are_enough_requests_it_says_how_many_more() -> None:
    draw = random.Random(3)
    nothing = verdict([], [])
    assert (nothing.word, nothing.failures.word, nothing.times.word) == ("too early",) * 3

    def without_failures(side: Side, count: int) -> list[Exchange]:
        return exchanges(draw, side, count, failing=0)

    some = verdict(without_failures("trial", 60), without_failures("champion", 240))
    assert some.word == "too early"
    assert some.more == nothing.more - 300, "a fifth of them are the trial's"
    enough = 60 + some.more // 5
    done = verdict(without_failures("trial", enough), without_failures("champion", 4 * enough))
    assert (done.more, done.word) == (0, "no difference")
    kept = [Exchange(SECOND, "trial", "kept", 1.0)] * 1000
    assert verdict([*kept], []).word == "too early", "a kept answer tells nothing of a version"


def test_quality_decides_where_the_truth_has_come() -> None:
    draw = random.Random(4)
    of_trial, of_champion = exchanges(draw, "trial", 300), exchanges(draw, "champion", 1200)
    better = Truth("better", "", "mase", 1.0, 0.5, SECOND)
    found = verdict(of_trial, of_champion, better)
    assert found.word == "better"
    assert "Quality, better: mase 0.5, the champion's 1, both on the data of" in found.sentences[3]
    worse = Truth("worse", "", "mase", 1.0, 1.5, SECOND)
    assert verdict(of_trial, of_champion, worse).word == "worse"
    assert verdict(of_trial[:5], of_champion, better).word == "too early"
    assert verdict(of_trial[:5], of_champion, worse).word == "worse", "it need not wait for more"


@pytest.mark.parametrize(
    ("failures", "answers", "too_often"),
    [(4, 0, False), (5, 0, True), (5, 45, False), (6, 45, True), (0, 100, False)],
)
def test_a_trial_is_taken_off_at_five_failures_and_more_than_one_in_ten(
    failures: int, answers: int, too_often: bool
) -> None:
    made = [Exchange(SECOND, "trial", "failed-alone", 1.0)] * failures
    made += [Exchange(SECOND, "trial", "answered", 1.0)] * answers
    made += [Exchange(SECOND, "champion", "failed", 1.0)] * 50
    made += [Exchange(SECOND, "trial", "kept", 1.0)] * 1000
    assert Fails.of(made).too_often is too_often


@seed(5)
@given(percent=st.integers(1, 50), why=st.text(max_size=50))
def test_a_trial_is_read_as_it_was_written(percent: int, why: str) -> None:
    made = Trial(
        SECOND,
        MULTI_MODEL.route("e", TENANT, SECOND),
        percent,
        AT,
        "someone",
        why,
        {"data": {"end": "2026-01-01"}, "share": 0.1},
        "00-1-2-01",
    )
    assert Trial.parse(made.text, TENANT) == made
    assert Trial.parse(made.text, TENANT).text == made.text


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": "../x"}', "null"])
def test_what_is_no_trial_is_refused(text: str) -> None:
    with pytest.raises(MalformedTrialError, match="the trial of acme cannot be read"):
        Trial.parse(text, TENANT)


def test_a_share_is_a_share_of_different_questions() -> None:
    """The draw of a request is a hash of it, so this holds on each run or on none."""
    taken = [trial(20).takes({"start": f"2026-01-{number}", "period": 7}) for number in range(5000)]
    assert 0.18 < sum(taken) / len(taken) < 0.22
    assert trial().takes({"a": 1, "b": 2}) == trial().takes({"b": 2, "a": 1})
    assert not trial(50).takes({"a": object()})
