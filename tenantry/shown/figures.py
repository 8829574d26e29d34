"""How to read the numbers on the assets' pages: unit, meaning, and good values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tenantry.workloads.schema import Workload
from tenantry.workloads.sections import Quality
from tenantry.workloads.shown_assets import Figure, WorkloadAsset

_INSTANCES: Final = {"instances": Figure(description="The machines behind the endpoint.")}
_CAPACITY: Final = {
    **_INSTANCES,
    "minimum": Figure(description="The fewest that there may be now."),
    "maximum": Figure(description="The most that there may be now."),
    "usd_per_hour": Figure(description="What the machines cost together.", unit="USD an hour"),
    "usd_of_the_day": Figure(
        description="What those of the last 24 hours cost, by a sample every five minutes.",
        unit="USD",
    ),
    "requests_of_the_day": Figure(description="Requests that reached it in the last 24 hours."),
    "other_endpoints": Figure(description="Those of silo tenants and of another tier."),
    "other_endpoints_failed": Figure(
        description="Those of them that could not be registered.", good="0"
    ),
    "other_endpoints_left_out": Figure(
        description="Those that the table has no room for; they are as the file says."
    ),
    "other_endpoints_left": Figure(
        description="Those that the next run looks at, as the time did not suffice.", good="0"
    ),
}
_COMMON: Final[Mapping[WorkloadAsset, Mapping[str, Figure]]] = {
    "uploads": {
        "accepted": Figure(description="Uploads that became requests."),
        "known_already": Figure(description="Events of uploads that were requests already."),
        "refused": Figure(
            description="Uploads that cannot be used; their owners are told why.", good="0"
        ),
    },
    "fine_tuned_artifact": {
        "bytes": Figure(description="The size of the model's archive.", unit="bytes"),
        "training_seconds": Figure(description="How long this tenant's training took.", unit="s"),
        "cost_usd": Figure(
            description="The tenant's share of the training job, at the price on demand.",
            unit="USD",
        ),
    },
    "endpoint_registration": {
        "smoke_milliseconds": Figure(
            description="How long the first answer took, with the loading of the model.", unit="ms"
        )
    },
    "batch_predictions": {
        "job_seconds": Figure(
            description="How long the transform job took, for all of its tenants.", unit="s"
        ),
        "cost_usd": Figure(description="The tenant's share of that job.", unit="USD"),
    },
    "serving_endpoint": _INSTANCES,
    "asynchronous_endpoint": _INSTANCES,
    "endpoint_capacity": _CAPACITY,
    "asynchronous_capacity": _CAPACITY,
    "prewarmed_models": {
        "asked": Figure(description="Tenants whose models were asked in these hours before."),
        "chosen": Figure(description="Models that were to be loaded."),
        "loaded": Figure(description="Models that have answered."),
        "failed": Figure(description="Models that did not answer, each with a reason.", good="0"),
        "untried": Figure(
            description="Models that were left out, as the endpoint did not answer.", good="0"
        ),
        "seconds": Figure(description="How long the loading took.", unit="s"),
    },
    "fleet": {
        "tenants_with_a_model": Figure(description="Tenants that are served."),
        "tenants_left_out": Figure(description="Tenants that the table has no room for."),
        "requests_waiting": Figure(
            description="Requests that are due and not yet in a training job."
        ),
        "oldest_wait_seconds": Figure(
            description="How long the first of them has waited.", unit="s", good="below 3600"
        ),
        "requests_given_up": Figure(description="Requests whose every try failed.", good="0"),
        "share_predicted": Figure(
            description="The share of tenants with a prediction of today or yesterday.",
            good="above 0.95",
        ),
        "serving_usd_per_hour": Figure(
            description="What the shared endpoints cost.", unit="USD an hour"
        ),
        "serving_usd_per_tenant_and_month": Figure(
            description="The same for each tenant, in 30 days.", unit="USD"
        ),
    },
}


def figures_of(workload: Workload, asset: WorkloadAsset) -> Mapping[str, Figure]:
    """The numbers on an asset's page, by the name of their metadata entry: those of all workloads,
    and the workload's own (``assets`` in its file)."""
    quality, shown = workload.quality, workload.assets.get(asset)
    compared = _compared(quality)
    scores: Mapping[WorkloadAsset, Mapping[str, Figure]] = {
        "fine_tuned_artifact": {quality.compared: compared},
        "endpoint_registration": {
            quality.compared: compared,
            f"champion_{quality.compared}": compared.model_copy(
                update={"description": "The same of the champion it was compared with."}
            ),
        },
        "fleet": {
            f"median_{quality.compared}": compared.model_copy(
                update={"description": f"The middle one of all tenants' {quality.compared}."}
            )
        },
    }
    return {
        **(shown.figures if shown is not None else {}),
        **scores.get(asset, {}),
        **_COMMON.get(asset, {}),
    }


def _compared(quality: Quality) -> Figure:
    """The figure of the score that versions are compared by."""
    side = "below" if quality.lower_is_better else "above"
    if quality.baseline is not None:
        return Figure(
            description=f"{quality.metric} as a share of {quality.baseline}; models are compared "
            f"by it.",
            good=f"{side} 1",
        )
    better = "lower is better" if quality.lower_is_better else "higher is better"
    good = better if quality.required is None else f"{side} {quality.required:g}; {better}"
    return Figure(description="The score that models are compared by.", good=good)


def as_markdown_table(figures: Mapping[str, Figure]) -> str:
    """Figures as a table in Markdown; empty without figures."""
    if not figures:
        return ""
    rows = [("figure", "unit", "meaning", "good"), ("---", "---", "---", "---")]
    rows += [
        (f"`{name}`", figure.unit, figure.description, figure.good)
        for name, figure in figures.items()
    ]
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in rows)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
