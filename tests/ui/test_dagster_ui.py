"""A platform engineer's afternoon in the Dagster UI, with the real processes and a real browser."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Final

import pytest
from selenium.webdriver.remote.webdriver import WebDriver

from containers.forecast.consumption.synthetic import generate, last_midnight
from demo.dagster_ui import BrowserMissingError, DagsterUI, chromium
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids
from tenantry.serving.client import TenantClient
from tenantry.shown.report import ONBOARDING
from tenantry.workloads.schema import read_workloads
from tests.conftest import LiveDagster

ENERGY: Final = ids.workload_name("energy")
ARTIFACT: Final = "energy/fine_tuned_artifact"
REQUIRED_VARIABLE: Final = "TENANTRY_BROWSER_REQUIRED"
_ONBOARDED_WITHIN: Final = 300.0  # seconds; half a minute on a quiet machine
_RUN_ENDS_WITHIN: Final = 300.0  # seconds


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    try:
        with chromium() as started:
            yield started
    except BrowserMissingError as missing:
        if os.environ.get(REQUIRED_VARIABLE) == "1":
            pytest.fail(str(missing))
        pytest.skip(str(missing))


@pytest.fixture
def ui(browser: WebDriver, live_dagster: LiveDagster) -> DagsterUI:
    """``browser`` comes first, so that Dagster does not start in vain on a machine without a
    browser."""
    return DagsterUI(browser, live_dagster.dagster.url)


def onboard(live: LiveDagster, tenant: str) -> ids.TenantId:
    """Upload ten weeks of hours like the tenant's app, and wait until the sensors have brought a
    model into service."""
    who = ids.tenant_id(tenant)
    end = last_midnight()
    sink = io.StringIO()
    generate(1, end - timedelta(days=70), end, seed=5)[["timestamp", "consumption"]].to_csv(
        sink, index=False
    )
    with TenantClient(live.deployment, read_workloads()["energy"], who) as client:
        client.upload(
            {"consumption.csv": sink.getvalue().encode()},
            {"timezone": "Europe/London", "country": "GB"},
        )
        deadline = time.monotonic() + _ONBOARDED_WITHIN
        while not (requests := client.requests()) or requests[-1].status != "registered":
            assert time.monotonic() < deadline, f"not onboarded: {requests}; see {live.dagster.log}"
            time.sleep(0.5)
    return who


@pytest.mark.browser
@pytest.mark.timeout(900)
def test_a_failed_tenants_page_says_why(ui: DagsterUI, live_dagster: LiveDagster) -> None:
    who = ids.tenant_id("ui-spoiled")
    with TenantClient(live_dagster.deployment, read_workloads()["energy"], who) as client:
        client.upload({"consumption.csv": b"timestamp,consumption\nyesterday,1\n"})
        deadline = time.monotonic() + _ONBOARDED_WITHIN
        while not (requests := client.requests()) or requests[-1].status != "refused":
            assert time.monotonic() < deadline, f"not refused: {requests}"
            time.sleep(0.5)
    reason = requests[-1].reason
    assert reason is not None

    ui.open_partition("energy/training_data", who)
    ui.see("failed, and did not materialize this asset")
    ui.see("not_made")
    ui.see(reason)


@pytest.mark.browser
@pytest.mark.timeout(900)
def test_a_person_materialises_one_tenants_artifact_by_clicking_and_sees_its_forecast(
    ui: DagsterUI, live_dagster: LiveDagster
) -> None:
    tenant = onboard(live_dagster, "ui-acme")
    registry = ModelRegistry(live_dagster.deployment)
    (onboarded,) = registry.versions(tenant, ENERGY)

    ui.open_asset_graph("energy")
    graph = ui.text().splitlines()
    for asset in ("uploads", *ONBOARDING, "batch_predictions", "serving_endpoint", "fleet"):
        assert asset in graph, asset
    ui.open_asset(ARTIFACT)
    ui.see("The error in the held-out week")  # the numbers are explained
    ui.see("Source code")

    run = ui.materialize(ARTIFACT, tenant)
    assert ui.wait_until_run_ended(_RUN_ENDS_WITHIN) == "Success", ui.text()

    ui.open_partition(ARTIFACT, tenant)
    ui.see(run[:8])  # the click caused the latest materialisation
    ui.see("View all historical events (2)")
    versions = [version.version for version in registry.versions(tenant, ENERGY)]
    (by_hand,) = [version for version in versions if version != onboarded.version]
    ui.see(by_hand)
    assert ui.show_picture("plot") > 300
    champion = registry.champion(tenant, ENERGY)
    assert champion is not None
    assert champion.version == onboarded.version, "an artifact materialised alone is not served"

    registration = "energy/endpoint_registration"
    ui.materialize(registration, tenant)  # from the latest upload: a newer version
    assert ui.wait_until_run_ended(_RUN_ENDS_WITHIN) == "Success", ui.text()
    ui.launch("energy_rollback", tenant)
    assert ui.wait_until_run_ended(_RUN_ENDS_WITHIN) == "Success", ui.text()
    ui.open_partition(registration, tenant)
    ui.see(f"rolled back to {onboarded.version}")

    ui.materialize("energy/batch_predictions", tenant)
    assert ui.wait_until_run_ended(_RUN_ENDS_WITHIN) == "Success", ui.text()
    ui.open_partition("energy/batch_predictions", tenant)
    ui.see("168")  # rows: a week of hours
    assert ui.show_picture("plot") > 300

    ui.materialize("energy/fleet")
    assert ui.wait_until_run_ended(_RUN_ENDS_WITHIN) == "Success", ui.text()
    ui.open_asset("energy/fleet")
    for words in ("tenants_with_a_model", "share_predicted", "serving_usd_per_tenant_and_month"):
        ui.see(words)
    ui.see("Days since its version was made.")  # from the column's description
    assert ui.show_picture("scores") > 300
