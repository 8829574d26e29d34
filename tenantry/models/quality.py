"""Whether a challenger follows the champion: compares their scores with each other and with the
workload's requirement."""

from __future__ import annotations

from collections.abc import Mapping

from tenantry.models.registry import Champion, ModelVersion
from tenantry.requests.newest import Moment, is_older
from tenantry.workloads.schema import Workload


def not_sufficient(workload: Workload, model: ModelVersion) -> str:
    """Why a model does not meet its workload's requirement, apart from any comparison."""
    quality = workload.quality
    return (
        f"its {quality.metric} is {model.metrics.get(quality.metric)}; {quality.required:g} is "
        f"required"
    )


def compared(
    workload: Workload, model: ModelVersion, champion: Champion, reigning: ModelVersion | None
) -> tuple[bool, str]:
    """Whether a challenger follows the champion, and why, as a sentence with the figures."""
    quality = workload.quality
    if not quality.suffices(model.metrics):
        return False, not_sufficient(workload, model)
    if is_older(model.version, champion.version):
        return False, f"a newer version, {champion.version}, is the champion already"
    skill = quality.skill(model.metrics)
    champion_skill = quality.skill(comparable(model, reigning)) if reigning else None
    if skill is None or champion_skill is None:
        lacking = model.version if skill is None else champion.version
        return (
            True,
            (
                f"it follows {champion.version} without a comparison: {lacking} has no "
                f"{quality.compared}"
            ),
        )
    better = "lower" if quality.lower_is_better else "higher"
    where = " on the same data" if reigning and has_fresh_score(model, reigning) else ""
    scores = (
        f"its {quality.compared} is {quality.shown(skill):.3f}, the champion's "
        f"{quality.shown(champion_skill):.3f}{where} ({better} is better)"
    )
    allowed = f"the tolerance of {quality.tolerance:.0%}"
    if quality.is_worse(skill, champion_skill, quality.tolerance):
        return False, f"worse by more than {allowed}: {scores}"
    if skill > champion_skill:
        return True, f"takes over from {champion.version}, within {allowed}: {scores}"
    return True, f"not worse than {champion.version}: {scores}"


def has_fresh_score(challenger: ModelVersion, champion: ModelVersion) -> bool:
    """Whether the champion's score on the challenger's data is known."""
    fresh = champion.fresh
    return fresh is not None and Moment.of(fresh.data) == Moment.of(challenger.version)


def comparable(challenger: ModelVersion, champion: ModelVersion) -> Mapping[str, float]:
    """The champion's metrics on the challenger's data if they are known, else those of its own
    training.

    The scores of its training are no measure once the world has changed: any challenger would seem
    to be worse.
    """
    fresh = champion.fresh
    return (
        fresh.metrics
        if fresh is not None and has_fresh_score(challenger, champion)
        else champion.metrics
    )
