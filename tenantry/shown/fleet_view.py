"""A fleet in its form for people in Dagster: a table, two plots, figures, and checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tenantry.shown.plots import plot_of_counts
from tenantry.shown.report import Table
from tenantry.tenants.fleet import Fleet, TenantInFleet
from tenantry.workloads.shown_assets import Column

_MAX_ROWS: Final = 500  # of a table in a page
_MAX_NAMED: Final = 50
_SHARE_ASKED_FOR: Final = 0.95  # the share of tenants that a check asks for
_OLDEST_WAIT_SECONDS: Final = 3600.0
_DEFAULT_MAX_AGE_DAYS: Final = 90
_DAYS_FOR_A_RETRAINING: Final = 7  # a fleet is not re-trained in one night


@dataclass(frozen=True)
class FleetCheck:
    """A question about a fleet: its name, its answer, and the figures behind it. ``description``
    says when it passes."""

    name: str
    description: str
    passed: bool
    facts: Mapping[str, Any]


CHECKS: Final[Mapping[str, str]] = {
    "champions_are_young": "At least 95 % of the tenants have a champion younger than the "
    "workload's re-training allows, and a week.",
    "nobody_waits_long": "No request has been due for more than an hour.",
    "no_request_was_given_up": "No request's tries are all used up (dead-lettered).",
    "predictions_are_fresh": "At least 95 % of the tenants whose data are recent enough have a "
    "prediction of today or yesterday.",
    "tenants_pass_their_checks": "At least 95 % of the tenants passed each check, the last time "
    "that it was made of them.",
}
"""The requirement of each check of a fleet, by name."""

COLUMNS: Final[Mapping[str, Column]] = {
    "tenant": Column(type="string", description="Its id."),
    "champion": Column(type="string", description="The version that serves it."),
    "tier": Column(type="string", description="silo, bridge or pool."),
    "score": Column(type="double", description="What versions are compared by; empty without one."),
    "age, days": Column(type="double", description="Days since its version was made."),
    "age of data, days": Column(type="double", description="Days since the end of its data."),
    "predicted": Column(
        type="string", description="Whether it has a prediction of today or yesterday."
    ),
}
"""The columns of the table of all tenants, by name."""


def fleet_metadata(fleet: Fleet) -> dict[str, Any]:
    """Plots of scores and ages, the tenants with the worst scores first, and the figures."""
    quality, tenants = fleet.workload.quality, fleet.tenants
    figures: dict[str, Any] = {
        "tenants_with_a_model": len(tenants),
        "requests_waiting": fleet.waiting,
        "oldest_wait_seconds": round(fleet.oldest_wait, 1),
        "requests_given_up": len(fleet.given_up),
        "share_predicted": round(fleet.share_predicted, 4),
        "predicted_for": "never" if fleet.predicted_for is None else str(fleet.predicted_for),
        "serving_usd_per_hour": fleet.serving_usd_per_hour,
    }
    if fleet.median_score is not None:
        figures[f"median_{quality.compared}"] = fleet.median_score
    if (usd := fleet.serving_usd_per_tenant_and_month) is not None:
        figures["serving_usd_per_tenant_and_month"] = round(usd, 4)
    better = "lower is better" if quality.lower_is_better else "higher is better"
    plots = {
        "scores": (f"tenants by {quality.compared} ({better})", [t.score for t in tenants]),
        "ages": ("tenants by age of their model, days", [t.age_days for t in tenants]),
    }
    shown: dict[str, Any] = {}
    for name, (title, values) in plots.items():
        picture = plot_of_counts([value for value in values if value is not None], title)
        if picture is not None:
            shown[name] = picture
    if tenants:
        shown["tenants"] = Table(tuple(map(_row, _worst_first(fleet)[:_MAX_ROWS])))
    if len(tenants) > _MAX_ROWS:
        shown["tenants_left_out"] = len(tenants) - _MAX_ROWS
    if fleet.given_up:
        shown["given_up"] = {
            str(request.tenant): request.reason or "no reason recorded"
            for request in fleet.given_up[:_MAX_NAMED]
        }
    return {**shown, **figures}


def fleet_checks(fleet: Fleet, results: Mapping[str, Mapping[str, bool]]) -> list[FleetCheck]:
    """The answers to ``CHECKS``.

    Args:
        fleet: the tenants at a moment.
        results: of each check of a tenant, by the check's name: whether each tenant passed it.
    """
    retraining = fleet.workload.retraining
    older = retraining.older_than_days if retraining is not None else None
    days = (older or _DEFAULT_MAX_AGE_DAYS) + _DAYS_FOR_A_RETRAINING
    young = fleet.share_younger_than(days)
    found: list[tuple[str, bool, dict[str, Any]]] = [
        (
            "champions_are_young",
            young >= _SHARE_ASKED_FOR,
            {"share": young, "younger_than_days": days},
        ),
        (
            "nobody_waits_long",
            fleet.oldest_wait <= _OLDEST_WAIT_SECONDS,
            {"oldest_wait_seconds": round(fleet.oldest_wait, 1), "waiting": fleet.waiting},
        ),
        (
            "no_request_was_given_up",
            not fleet.given_up,
            {"tenants": sorted({str(request.tenant) for request in fleet.given_up})[:_MAX_NAMED]},
        ),
        (
            "predictions_are_fresh",
            fleet.share_predicted >= _SHARE_ASKED_FOR,
            {"share": fleet.share_predicted, "predicted_for": str(fleet.predicted_for or "never")},
        ),
        (
            "tenants_pass_their_checks",
            all(
                sum(of_tenant.values()) >= _SHARE_ASKED_FOR * len(of_tenant)
                for of_tenant in results.values()
            ),
            {"checks": Table(tuple(_check_row(*each) for each in sorted(results.items())))},
        ),
    ]
    return [FleetCheck(name, CHECKS[name], passed, facts) for name, passed, facts in found]


def _worst_first(fleet: Fleet) -> Sequence[TenantInFleet]:
    sign = 1 if fleet.workload.quality.lower_is_better else -1
    return sorted(
        fleet.tenants,
        key=lambda tenant: (tenant.score is not None, -sign * (tenant.score or 0.0), tenant.tenant),
    )


def _row(tenant: TenantInFleet) -> dict[str, str | int | float]:
    predicted = "yes" if tenant.predicted else "data too old" if tenant.too_old else "no"
    cells = (
        tenant.tenant,
        tenant.version,
        tenant.tier,
        "" if tenant.score is None else tenant.score,
        _days(tenant.age_days),
        _days(tenant.data_age_days),
        predicted,
    )
    return dict(zip(COLUMNS, cells, strict=True))


def _check_row(check: str, of_tenant: Mapping[str, bool]) -> dict[str, str | int | float]:
    failed = sorted(tenant for tenant, passed in of_tenant.items() if not passed)
    named = ", ".join(failed[:_MAX_NAMED]) + (", …" if len(failed) > _MAX_NAMED else "")
    return {
        "check": check,
        "passed": len(of_tenant) - len(failed),
        "did not pass": len(failed),
        "tenants that did not": named,
    }


def _days(days: float | None) -> str | float:
    return "" if days is None else round(days, 1)
