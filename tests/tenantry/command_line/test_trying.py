"""A trial from the command line, on a real endpoint."""

from __future__ import annotations

import getpass
import uuid

import pytest

from tenantry.aws.deployment import Deployment
from tenantry.hosting.endpoints import Endpoint
from tenantry.models.registry import Champion, ModelRegistry
from tenantry.names import ids
from tenantry.onboarding.registration import register
from tenantry.workloads.schema import Workload
from tests.conftest import TrainedForecast
from tests.tenantry.command_line.conftest import Call, caller, document
from tests.tenantry.onboarding.registration import NAME, route_to, trained_version

Serving = tuple[Deployment, Workload, Endpoint]


@pytest.fixture
def call(serving: Serving) -> Call:
    """Calls ``tenantry`` on this module's shared cloud."""
    return caller(serving[0])


def lost(
    serving: Serving, tenant: ids.TenantId, trained_forecasts: list[TrainedForecast]
) -> ids.Version:
    """A version that lost against its tenant's champion."""
    deployment, energy, endpoint = serving
    crowned = list[bool]()
    for number, mase in ((1, 0.5), (2, 0.9)):
        metrics = {"mase": mase, "baseline_mase": 1.0}
        model = trained_version(
            deployment, tenant, number, trained_forecasts[number].archive, metrics
        )
        done = register(deployment, energy, model, route_to(endpoint.name, model))
        crowned.append(done.crowned)
    assert crowned == [True, False]
    return model.version


def champion_of(serving: Serving, tenant: ids.TenantId) -> Champion:
    found = ModelRegistry(serving[0]).champion(tenant, NAME)
    assert found is not None
    return found


def test_a_trial_is_started_judged_and_promoted(
    call: Call, serving: Serving, trained_forecasts: list[TrainedForecast]
) -> None:
    tenant = ids.tenant_id(f"t-{uuid.uuid4().hex[:8]}")
    version = lost(serving, tenant, trained_forecasts)
    before = champion_of(serving, tenant)
    refused = call("trial", tenant, "energy", version, stdin="n\n", status=1)
    assert f"Let {version} answer 20 % of the requests of {tenant}?" in refused.stderr
    assert champion_of(serving, tenant) == before
    assert document(call("trial", tenant, "energy", "--json")) == {"format": 1, "verdict": None}
    assert "no version" in call("trial", tenant, "energy").stdout

    said = call("trial", tenant, "energy", version, "--share", "30", "--why", "a look", stdin="y\n")
    assert f"{version} answers 30 % of the requests of {tenant} beside {before.version}" in (
        said.stdout
    )
    running = champion_of(serving, tenant).trial
    assert running is not None
    assert (running.version, running.percent, running.why) == (version, 30, "a look")
    assert running.by == f"operator {getpass.getuser()}"
    assert f"On trial: {version}, 30 % of the requests" in call("tenant", tenant).stdout
    shown = document(call("trial", tenant, "energy", "--json"))["verdict"]
    assert (shown["verdict"], shown["trial"], shown["trial_requests"]) == ("too early", version, 0)
    assert (
        f"{version} beside {before.version}: too early." in call("trial", tenant, "energy").stdout
    )

    done = document(call("trial", tenant, "energy", "--promote", "--yes", "--json"))
    assert (done["champion"]["version"], done["champion"]["trial"]) == (version, None)
    assert champion_of(serving, tenant).previous == before.version
    again = call("trial", tenant, "energy", "--promote", "--yes").stdout
    assert f"{tenant} is served by version {version}" in again
    notes = {one.version: one.note for one in ModelRegistry(serving[0]).versions(tenant, NAME)}
    assert notes[version].startswith("promoted after its trial with 30 % since")


def test_a_trial_is_ended_and_ending_none_changes_nothing(
    call: Call, serving: Serving, trained_forecasts: list[TrainedForecast]
) -> None:
    tenant = ids.tenant_id(f"t-{uuid.uuid4().hex[:8]}")
    version = lost(serving, tenant, trained_forecasts)
    before = champion_of(serving, tenant)
    call("trial", tenant, "energy", version, "--yes")
    other = call("trial", tenant, "energy", version, "--share", "5", "--yes", status=1)
    assert "promote or end it first" in other.stderr
    said = call("trial", tenant, "energy", "--end", "--why", "enough", "--yes").stdout
    assert f"the trial of {version} is over; {before.version} answers all" in said
    assert champion_of(serving, tenant) == before
    ended = document(call("trial", tenant, "energy", "--end", "--yes", "--json"))
    assert ended == {"format": 1, "ended": None}
    refused = call("trial", tenant, "energy", "--promote", "--yes", status=1)
    assert "no version" in refused.stderr


def test_what_contradicts_itself_or_is_unknown_is_refused(
    call: Call, serving: Serving, trained_forecasts: list[TrainedForecast]
) -> None:
    tenant = ids.tenant_id(f"t-{uuid.uuid4().hex[:8]}")
    version = lost(serving, tenant, trained_forecasts)
    call("trial", tenant, "energy", "--promote", "--end", status=2)
    call("trial", tenant, "energy", version, "--end", status=2)
    call("trial", tenant, "energy", "--share", "10", status=2)
    call("trial", tenant, "energy", version, "--share", "60", status=2)
    unknown = call("trial", tenant, "energy", "20250101t000000-ffffffff", "--yes", status=1)
    assert version in unknown.stderr, "it names those that can be tried"
    champion = champion_of(serving, tenant).version
    assert "is the champion" in call("trial", tenant, "energy", champion, "--yes", status=1).stderr
