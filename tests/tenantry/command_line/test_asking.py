"""Asking a tenant's model from the command line, at once and asynchronously, and its batch
predictions."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest
import yaml

from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.hosting.endpoints import ensure_endpoint
from tenantry.hosting.shapes.asynchronous import ASYNCHRONOUS
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.names import ids, s3_keys
from tenantry.names.tiers import Own, Shared
from tenantry.workloads.folder import FOLDER, FOLDER_VARIABLE
from tests.tenantry.command_line.conftest import ENERGY, Call, caller, document
from tests.tenantry.hosting.instances import set_instances
from tests.tenantry.serving.conftest import world  # noqa: F401 - a fixture
from tests.tenantry.serving.tiny_family import MEANS, World


@pytest.fixture
def call(
    world: World,  # noqa: F811 - the fixture
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Call:
    """Calls ``tenantry`` with the tiny workload, named energy, as the only one."""
    ensure_endpoint(world.deployment, world.tiny, Shared("bridge"), MULTI_MODEL)
    folder = tmp_path / "workloads"
    folder.mkdir()
    # A question needs no container's folder, but a workload's file needs an existing one.
    tiny = world.tiny.model_dump(mode="json") | {"container": "forecast"}
    (folder / "energy.yaml").write_text(yaml.safe_dump(tiny))
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    return caller(world.deployment)


def test_a_champion_is_asked_and_the_exchange_archived(
    call: Call,
    world: World,  # noqa: F811 - the fixture
) -> None:
    tenant = world.tenant()
    answer = json.loads(call("ask", tenant, '{"add": 1}').stdout)
    assert answer["mean"] == MEANS[tenant] + 1
    piped = document(call("ask", tenant, "-", "--json", stdin='{"add": 2}'))
    assert piped["answer"]["mean"] == MEANS[tenant] + 2
    assert (piped["workload"], piped["files"]) == ("energy", [])
    archived = world.deployment.s3.list_objects_v2(
        Bucket=world.deployment.data_bucket, Prefix=f"archive/{tenant}/energy/"
    )
    assert archived["KeyCount"] == 2


def test_an_asynchronous_answer_is_waited_for(
    call: Call,
    world: World,  # noqa: F811 - the fixture
) -> None:
    tenant = world.tenant()
    answer = json.loads(call("ask", tenant, '{"add": 3}', "--asynchronous").stdout)
    assert answer["mean"] == MEANS[tenant] + 3
    late = call("ask", tenant, '{"late": true}', status=1).stderr
    assert "it was not ready in 1 s; --asynchronous waits for it" in late
    set_instances(world.deployment, world.endpoint, 0)
    again = ("ask", tenant, '{"add": 4}', "--asynchronous")
    told = call(*again, "--timeout", "0.2", status=1).stderr
    assert "has no answer after 0.2 s; it may still come; repeat this, or give --timeout" in told
    set_instances(world.deployment, world.endpoint, 1)
    assert json.loads(call(*again).stdout)["mean"] == MEANS[tenant] + 4


def test_a_request_without_an_instance_is_parked_and_its_answer_waited_for(
    call: Call,
    world: World,  # noqa: F811 - the fixture
    tmp_path: Path,
) -> None:
    tenant = world.tenant(tier="silo")  # without a real-time endpoint
    ensure_endpoint(world.deployment, world.tiny, Own(tenant), ASYNCHRONOUS)
    ask = ("ask", tenant, json.dumps({"add": 5, "wait_for": str(tmp_path / "hold")}))
    assert "not found.\n" in call(*ask, status=1).stderr
    file = tmp_path / "workloads" / "energy.yaml"
    document = yaml.safe_load(file.read_text())
    document["serving"]["park_when_unavailable"] = True
    file.write_text(yaml.safe_dump(document))
    told = call(*ask, "--timeout", "0.2", status=1).stderr
    assert "no instance takes requests; this one is parked until one does" in told
    assert "has no answer after 0.2 s; it may still come; repeat this, or give --timeout" in told
    (tmp_path / "hold").touch()
    assert json.loads(call(*ask).stdout)["mean"] == MEANS[tenant] + 5


def test_pictures_and_other_answers_are_written_to_files(
    call: Call,
    world: World,  # noqa: F811 - the fixture
    tmp_path: Path,
) -> None:
    tenant, file = world.tenant(), tmp_path / "star.png"
    drawn = call("ask", tenant, '{"draw": ["a star", "a moon"]}', "--output", str(file))
    second = tmp_path / "star-2.png"
    assert (file.read_bytes(), second.read_bytes()) == (b"a star", b"a moon")
    named = [image["png"] for image in json.loads(drawn.stdout)["images"]]
    assert named == [str(file), str(second)]
    assert f"written: {second}\n" in drawn.stderr
    unwritten = json.loads(call("ask", tenant, '{"draw": ["a sun"]}').stdout)
    assert unwritten["images"][0]["png"] == "5 bytes; --output FILE saves them"
    whole = document(call("ask", tenant, '{"draw": ["a sun"]}', "--json"))
    assert whole["answer"]["images"][0]["png"] == "YSBzdW4="

    saved = call("ask", tenant, '{"add": 1}', "--output", str(tmp_path / "answer.json"))
    assert saved.stdout == ""
    assert json.loads((tmp_path / "answer.json").read_text())["mean"] == MEANS[tenant] + 1
    raw = call("ask", tenant, '{"raw": true}', status=1).stderr
    assert "application/octet-stream, which no terminal shows; --output FILE saves them" in raw
    nowhere = str(tmp_path / "none" / "x")
    assert (
        "cannot be written"
        in call("ask", tenant, '{"add": 1}', "--output", nowhere, status=1).stderr
    )


def test_what_cannot_be_asked_is_told(
    call: Call,
    world: World,  # noqa: F811 - the fixture
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert (
        "nobody has no energy model yet; none of its uploads has been taken in"
        in call("ask", "nobody", "{}", status=1).stderr
    )
    assert "is no JSON: Expecting" in call("ask", "acme", "{period: 7}", status=2).stderr
    assert "is no JSON object" in call("ask", "acme", "[7]", status=2).stderr
    assert "no JSON" in call("ask", "acme", "-", stdin="", status=2).stderr
    monkeypatch.setenv(FOLDER_VARIABLE, str(FOLDER))  # two workloads
    assert (
        "nobody has no model yet; `tenantry tenant nobody`"
        in call("ask", "nobody", "{}", status=1).stderr
    )
    tenant = world.tenant()
    refused = call("ask", tenant, '{"add": "one"}', status=1).stderr
    assert refused.startswith("Error: ")
    assert "{" not in refused  # only the container's sentence, without its document
    not_offered = call(
        "ask", tenant, "{}", "--workload", "energy", "--asynchronous", status=1
    ).stderr
    assert "workload energy has no asynchronous endpoint" in not_offered


# ---- batch predictions ---------------------------------------------------------------------------


def predicted(deployment: Deployment, tenant: str, day: str, answer: object) -> str:
    """Store a batch prediction in its usual place. Returns its key."""
    key = s3_keys.prediction(
        ENERGY, ids.tenant_id(tenant), ids.batch_name("nightly"), date.fromisoformat(day)
    )
    line = json.dumps(answer).encode() + b"\n"
    objects.write_bytes(deployment.s3, deployment.data_bucket, key, line, "application/jsonlines")
    return key


def forecast(days: int) -> dict[str, object]:
    """An answer in the form of the forecast container's."""
    moments = [f"2026-11-{number:02}T00:00:00Z" for number in range(1, days + 1)]
    values = [number / 2 for number in range(days)]
    return {
        "model": "ridge",
        "unit": "kWh",
        "timestamps": moments,
        "mean": values,
        "quantiles": {"0.1": values, "0.9": values},
    }


def test_the_latest_prediction_is_shown_and_written_to_a_file(
    deployment: Deployment, tmp_path: Path
) -> None:
    call = caller(deployment)
    for day in ("2026-11-02", "2026-11-01"):
        key = predicted(deployment, "acme", day, forecast(14))
    where = f"s3://{deployment.data_bucket}/{key.replace('-01.', '-02.')}"
    shown = call("predictions", "acme", "--rows", "2").stdout.splitlines()
    assert shown[0].startswith("acme, energy: the prediction nightly of 2026-11-02, written 20")
    assert "14 rows in kWh, 2026-11-01T00:00:00Z to 2026-11-14T00:00:00Z" in shown[0]
    assert shown[1] == where
    assert shown[2].split("  ")[0] == "timestamps"
    assert shown[3].split() == ["2026-11-01T00:00:00Z", "0.0", "0.0", "0.0"]
    assert "(the first 2 of 14 rows; --rows 14 shows all)" in shown
    assert shown[-1] == "There are others, of 2026-11-01 (nightly): --day and --batch show one"

    file = tmp_path / "acme.jsonl"
    earlier = ("predictions", "acme", "--day", "2026-11-01", "--output", str(file), "--json")
    (found,) = document(call(*earlier))["predictions"]
    assert (found["day"], found["rows"], found["other_days"]) == ("2026-11-01", 14, ["2026-11-02"])
    assert json.loads(file.read_text()) == forecast(14)


def test_a_prediction_of_pictures_is_a_row_for_each(deployment: Deployment) -> None:
    images = [{"prompt": "a star", "seed": 7, "png": "aaaa"}, {"prompt": "a moon", "png": "aaaa"}]
    predicted(deployment, "acme", "2026-11-01", {"images": images})
    predicted(deployment, "bolt", "2026-11-01", {"mean": 7})
    shown = caller(deployment)("predictions", "acme").stdout
    assert "2 rows" in shown
    assert "a star  7     3 bytes" in shown
    (row,) = document(caller(deployment)("predictions", "bolt", "--json"))["predictions"]
    assert (row["preview"], row["period"]) == ([{"mean": 7}], None)


def test_where_there_is_no_prediction_it_is_said(deployment: Deployment, tmp_path: Path) -> None:
    call = caller(deployment)
    nothing = call("predictions", "acme", "--workload", "energy", status=1).stderr
    assert "acme has no batch prediction for energy; `tenantry tenant acme` tells" in nothing
    predicted(deployment, "acme", "2026-11-01", forecast(1))
    another = call("predictions", "acme", "--day", "2026-11-02", status=1).stderr
    assert "acme has no batch prediction of 2026-11-02" in another
    nowhere = str(tmp_path / "none" / "x")
    assert "cannot be written" in call("predictions", "acme", "--output", nowhere, status=1).stderr
