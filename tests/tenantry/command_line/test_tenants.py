"""The table of tenants, page by page; and that the content of tables can be copied."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from tenantry.aws.deployment import Deployment
from tenantry.command_line.roster import PAGE
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids, sagemaker_names
from tenantry.names.tiers import Shared
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import now
from tests.tenantry.command_line.conftest import ENERGY, Call, dead_lettered, document, pending
from tests.tenantry.onboarding.registration import route_to, trained_version

LONGEST = "t" + "0123456789" * 6 + "xy"


def crown(deployment: Deployment, name: str, days: float, score: float = 0.5) -> None:
    """Give a tenant a champion whose data ended this many days ago."""
    end = now() - timedelta(days=days)
    card = {
        "data": {"end": end.isoformat()},
        "usable_until": (end + timedelta(days=60)).isoformat(),
    }
    tenant = ids.tenant_id(name)
    model = trained_version(deployment, tenant, 1, b"archive", {"mase": score}, card=card)
    endpoint = sagemaker_names.endpoint_name(deployment.prefix, ENERGY, Shared("bridge"))
    ModelRegistry(deployment).crown(model, route_to(endpoint, model), None)


def test_tenants_are_listed_with_champion_score_age_and_newest_request(
    call: Call, queue: RequestQueue, deployment: Deployment
) -> None:
    assert call("tenants").stdout.splitlines() == [
        "churn: there are none",
        "energy: there are none",
        "portraits: there are none",
    ]
    crown(deployment, "acme", days=3.5, score=0.68551)
    crown(deployment, "old", days=90)
    waiting = pending(queue, "new")
    lost = dead_lettered(queue, "acme")

    shown = call("tenants", "--workload", "energy").stdout
    assert "energy: 2 with a model; of mase, lower is better" in shown
    rows = {line.split()[0]: line for line in shown.splitlines() if line}
    assert re.search(r"20260101t000000-aaaaaaaa +0.6855 +3 d 12 h +dead_lettered", rows["acme"])
    assert rows["acme"].endswith(lost.request)
    assert "90 d 0 h, too old" in rows["old"]
    assert rows["new"].split() == ["new", "–", "–", "–", "pending", waiting.request]
    assert "1 with a newest request that is dead_lettered: `tenantry tenant acme`" in shown
    assert "1 with data too old to predict from, old for one" in shown
    assert "All well" not in shown

    (energy,) = document(call("tenants", "--workload", "energy", "--json"))["workloads"]
    stands = {one["tenant"]: one for one in energy["tenants"]}
    assert [*stands] == ["acme", "new", "old"]
    assert (stands["acme"]["metric"], stands["acme"]["score"]) == ("mase", 0.68551)
    assert (stands["new"]["version"], stands["old"]["status"]) == (None, None)
    assert energy["more_after"] is None


def test_a_list_that_is_cut_says_so_and_how_to_go_on(
    call: Call, queue: RequestQueue, deployment: Deployment
) -> None:
    for number in range(PAGE + 2):
        crown(deployment, f"t-{number:03}", days=1)
    shown = call("tenants", "--workload", "energy", "--most", str(PAGE + 1)).stdout
    assert f"energy: {PAGE + 2} with a model" in shown
    on = f"tenantry tenants --workload energy --after t-{PAGE}"
    assert f"(the first {PAGE + 1} are shown; go on with `{on}`" in shown
    assert "All well with these." in shown
    assert len(re.findall(r"^t-\d+ ", shown, re.MULTILINE)) == PAGE + 1
    rest = call(*on.split()[1:]).stdout
    assert f"t-{PAGE + 1}" in rest
    assert "All well with these." in rest
    (cut,) = document(call("tenants", "--workload", "energy", "--most", "1", "--json"))["workloads"]
    assert cut["more_after"] == "t-000"
    assert "--after needs --workload" in call("tenants", "--after", "t-1", status=2).stderr


@pytest.mark.parametrize("width", ["40", "80", None])
def test_ids_are_whole_and_on_one_line_however_narrow_the_output(
    call: Call,
    queue: RequestQueue,
    deployment: Deployment,
    monkeypatch: pytest.MonkeyPatch,
    width: str | None,
) -> None:
    if width is not None:
        monkeypatch.setenv("COLUMNS", width)
    crown(deployment, LONGEST, days=1)
    row = dead_lettered(queue, LONGEST, "the container ended with status 1, " * 5)
    version = "20260101t000000-aaaaaaaa"
    endpoint = sagemaker_names.endpoint_name(deployment.prefix, ENERGY, Shared("bridge"))
    looks = {
        ("tenants",): (LONGEST, version, row.request),
        ("requests", "energy"): (LONGEST, row.request),
        ("tenant", LONGEST): (row.request, version, endpoint, "p-1"),
    }
    for arguments, wanted in looks.items():
        shown = call(*arguments).stdout
        assert "…" not in shown
        words = set(re.split(r"[\s,.]+", shown))
        assert set(wanted) <= words, (arguments, set(wanted) - words)
