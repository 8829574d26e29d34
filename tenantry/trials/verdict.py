"""The verdict on a trial: by failures and times at once, and by the workload's quality metric where
the truth has come since.

It has figures alone, and nothing of what a tenant asked or was answered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from tenantry.errors import TenantryError
from tenantry.models.registry import Champion, ModelRegistry
from tenantry.models.trial import Trial
from tenantry.names import ids
from tenantry.onboarding.drift import fresh_score, newest_data
from tenantry.trials.comparisons import (
    SMALLEST_ODDS,
    SMALLEST_SHARE,
    Failures,
    Times,
    Word,
    compare_failures,
    compare_times,
)
from tenantry.trials.exchanges import Exchange, Side, exchanges_of
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_GUARD_FAILURES: Final = 5
_GUARD_SHARE: Final = 0.1


@dataclass(frozen=True)
class Truth:
    """Both versions' scores on newer data, as shares of the baseline's where there is one.

    ``word`` is None where they cannot be scored, and ``reason`` says why. ``data`` is the version
    that the data were prepared for.
    """

    word: Word | None
    reason: str
    figure: str
    champion: float | None = None
    trial: float | None = None
    data: ids.Version | None = None


@dataclass(frozen=True)
class Verdict:
    """What a trial tells so far.

    ``more`` is about how many further requests of the tenant a verdict takes, answers from the
    result cache not counted; ``kept`` counts these.
    """

    trial: Trial
    champion: ids.Version
    failures: Failures
    times: Times
    truth: Truth
    kept: int
    more: int

    @property
    def word(self) -> Word:
        """One word for all of it. Worse in anything is worse; a better figure counts once there are
        enough requests."""
        words = {self.failures.word, self.times.word, self.truth.word}
        for word in ("worse", "too early", "better"):
            if word in words:
                return word
        return "no difference"

    @property
    def sentences(self) -> list[str]:
        """For people, with the figures."""
        truth = self.truth
        said = [
            f"{self.trial.version} beside {self.champion}: {self.word}.",
            self.failures.sentence,
            self.times.sentence,
        ]
        if truth.word is None or truth.champion is None:
            said.append(f"Quality, not told: {truth.reason}.")
        else:
            said.append(
                f"Quality, {truth.word}: {truth.figure} {truth.trial:g}, the champion's "
                f"{truth.champion:g}, both on the data of {truth.data}."
            )
        if self.word == "too early":
            said.append(
                f"About {self.more} more requests tell a difference of "
                f"{100 * SMALLEST_SHARE:g} points of failures, or being slower in "
                f"{100 * SMALLEST_ODDS:g} of 100 pairs."
            )
        return said


@dataclass(frozen=True)
class Fails:
    """How often a trial's version failed where the champion answered, and of how many requests."""

    failures: int
    requests: int

    @classmethod
    def of(cls, exchanges: Sequence[Exchange]) -> Fails:
        """Counted from a trial's exchanges."""
        its = [one for one in exchanges if one.side == "trial" and one.outcome != "kept"]
        return cls(sum(one.outcome == "failed-alone" for one in its), len(its))

    @property
    def too_often(self) -> bool:
        """Whether the trial is to end: five failures at least, and more than one in ten."""
        return self.failures >= _GUARD_FAILURES and self.failures > _GUARD_SHARE * self.requests

    def __str__(self) -> str:
        return f"it failed {self.failures} of {self.requests} requests that the champion answered"


def verdict_of(
    deployment: Deployment, workload: Workload, champion: Champion, trial: Trial, now: datetime
) -> Verdict:
    """Judge a trial. It lists the archive's keys, and scores both versions on the newest data where
    there are newer ones than both."""
    found = list(exchanges_of(deployment, champion.workload, champion.tenant, trial, now))
    truth = _truth(deployment, workload, champion, trial)
    return judged(champion, trial, found, truth)


def judged(
    champion: Champion, trial: Trial, exchanges: Sequence[Exchange], truth: Truth
) -> Verdict:
    """The verdict on a trial's exchanges."""
    asked = [one for one in exchanges if one.outcome != "kept"]

    def counts(side: Side) -> tuple[int, int]:
        its = [one for one in asked if one.side == side]
        return sum(one.outcome != "answered" for one in its), len(its)

    def milliseconds(side: Side) -> list[float]:
        return [one.milliseconds for one in asked if one.side == side and one.outcome == "answered"]

    failures = compare_failures(counts("champion"), counts("trial"), trial.percent)
    times = compare_times(milliseconds("champion"), milliseconds("trial"), trial.percent)
    of_trial = max(failures.needed - failures.trial_requests, times.needed - times.trial_answers, 0)
    of_champion = max(
        failures.needed - failures.champion_requests, times.needed - times.champion_answers, 0
    )
    more = max(of_trial * 100 / trial.percent, of_champion * 100 / (100 - trial.percent))
    kept = len(exchanges) - len(asked)
    return Verdict(trial, champion.version, failures, times, truth, kept, math.ceil(more))


def _truth(deployment: Deployment, workload: Workload, champion: Champion, trial: Trial) -> Truth:
    quality = workload.quality
    figure = quality.compared
    if workload.drift is None:
        return Truth(None, f"{workload.name}.yaml names no module under `drift`", figure)
    registry = ModelRegistry(deployment)
    skills = list[float]()
    try:
        data = newest_data(deployment, workload, champion.tenant)
        if data is None:
            return Truth(None, "no upload was prepared yet", figure)
        for version, route in ((champion.version, champion.route), (trial.version, trial.route)):
            model = registry.version(champion.tenant, champion.workload, version)
            metrics = (
                None if model is None else fresh_score(deployment, workload, route, model, data)
            )
            skill = None if metrics is None else quality.skill(metrics)
            if skill is None:
                reason = f"no data tell of days after {version} was made"
                return Truth(None, reason, figure)
            skills.append(skill)
    except (TenantryError, LookupError, ValueError, TypeError, ClientError, BotoCoreError) as error:
        return Truth(None, f"it could not be told: {type(error).__name__}: {error}", figure)
    reigning, tried = skills
    word: Word = "no difference"
    if quality.is_worse(tried, reigning, quality.tolerance):
        word = "worse"
    elif quality.is_worse(reigning, tried, quality.tolerance):
        word = "better"
    return Truth(word, "", figure, quality.shown(reigning), quality.shown(tried), data.version)


def verdict_metadata(verdict: Verdict) -> dict[str, Any]:
    """The verdict for ``endpoint_registration`` in Dagster, and for programs."""
    failures, times, truth = verdict.failures, verdict.times, verdict.truth
    return {
        "decision": f"trial of {verdict.trial.version}: {verdict.word}",
        "verdict": verdict.word,
        "trial": verdict.trial.version,
        "champion": verdict.champion,
        "trial_percent": verdict.trial.percent,
        "trial_since": verdict.trial.since.isoformat(),
        "failures": failures.word,
        "trial_requests": failures.trial_requests,
        "trial_failures": failures.trial_failures,
        "champion_requests": failures.champion_requests,
        "champion_failures": failures.champion_failures,
        "failures_difference": round(failures.difference, 6),
        "failures_low": round(failures.low, 6),
        "failures_high": round(failures.high, 6),
        "failures_p_value": failures.p_value,
        "times": times.word,
        "trial_median_ms": round(times.trial_median, 3),
        "champion_median_ms": round(times.champion_median, 3),
        "slower_in_pairs": round(times.slower, 6),
        "times_p_value": times.p_value,
        "quality": truth.word or truth.reason,
        **(
            {f"trial_{truth.figure}": truth.trial, f"champion_{truth.figure}": truth.champion}
            if truth.word is not None
            else {}
        ),
        "kept_answers": verdict.kept,
        "more_requests": verdict.more,
    }
