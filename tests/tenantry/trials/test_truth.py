"""Trials on the real forecast container, judged by what came after both versions were made."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from tenantry.aws.deployment import Deployment
from tenantry.hosting.endpoints import Endpoint
from tenantry.models.registry import ModelRegistry, ModelVersion
from tenantry.names import ids
from tenantry.requests.rows import now
from tenantry.trials.running import promote, start
from tenantry.trials.verdict import verdict_metadata, verdict_of
from tenantry.workloads.schema import Workload
from tests.conftest import TRAINED_UNTIL, TrainedForecast
from tests.tenantry.onboarding.registration import NAME, trained_version
from tests.tenantry.onboarding.test_drift import served, uploaded

Serving = tuple[Deployment, Workload, Endpoint]


def beside(serving: Serving, champion: ModelVersion, trained: TrainedForecast) -> ModelVersion:
    """Another version of the champion's tenant, made an hour earlier."""
    deployment, _, _ = serving
    made = trained_version(
        deployment,
        champion.tenant,
        1,
        trained.archive,
        trained.outcome["metrics"],
        card=trained.outcome["card"],
    )
    version = ids.version_of(champion.tenant, TRAINED_UNTIL - timedelta(hours=1))
    model = replace(made, version=version)
    ModelRegistry(deployment).add(model)
    return model


def test_both_versions_are_scored_on_the_data_that_came_since(
    serving: Serving, trained_forecasts: list[TrainedForecast]
) -> None:
    deployment, energy, _ = serving
    # The champion is another customer's forecast; the version on trial is the tenant's own.
    champion = served(serving, trained_forecasts[1])
    own = beside(serving, champion, trained_forecasts[0])
    running = start(deployment, energy, champion.tenant, own.version, by="test")
    trial = running.trial
    assert trial is not None
    assert trial.card == own.card

    untold = verdict_of(deployment, energy, running, trial, now())
    assert (untold.truth.word, untold.truth.reason) == (None, "no upload was prepared yet")

    _, data = uploaded(serving, champion.tenant, 7)
    told = verdict_of(deployment, energy, running, trial, now())
    assert (told.truth.word, told.truth.data) == ("better", data.version), told.truth
    assert told.truth.trial is not None
    assert told.truth.champion is not None
    assert told.truth.trial < told.truth.champion
    assert told.word == "too early", "quality alone does not end it well"
    shown = verdict_metadata(told)
    figure = energy.quality.compared
    assert (shown["quality"], shown[f"trial_{figure}"]) == ("better", told.truth.trial)
    registry = ModelRegistry(deployment)
    noted = registry.version(champion.tenant, NAME, own.version)
    assert noted is not None
    assert noted.fresh is not None
    assert noted.fresh.data == data.version
    asked = deployment.aws_calls["sagemaker-runtime:InvokeEndpoint"]
    assert verdict_of(deployment, energy, running, trial, now()).truth == told.truth
    assert deployment.aws_calls["sagemaker-runtime:InvokeEndpoint"] == asked, "scored once"

    promote(deployment, energy, champion.tenant, by="test")
    back = start(deployment, energy, champion.tenant, champion.version, by="test")
    assert back.trial is not None
    worse = verdict_of(deployment, energy, back, back.trial, now())
    assert (worse.truth.word, worse.word) == ("worse", "worse")

    never = energy.model_copy(update={"drift": None})
    assert "`drift`" in verdict_of(deployment, never, back, back.trial, now()).truth.reason
