"""The answers of batches as tables, which Athena, pandas and DuckDB read."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.batch.periods import Period
from tenantry.batch.predictions import predict
from tenantry.batch.queries import MOST_OF_A_SUMMARY, QueryAnswer, QueryFailedError, summary_of
from tenantry.batch.result_tables import ResultTable, TableWritten
from tenantry.batch.transform import MAX_SHOWN_BYTES, TenantPrediction
from tenantry.names import ids, s3_keys
from tenantry.workloads.batches import Batch
from tenantry.workloads.schema import Workload, read_workloads
from tests.docs.pages import blocks
from tests.pipes_sagemaker.broken_calls import break_calls
from tests.tenantry.batch.test_transform import Heard
from tests.tenantry.command_line.conftest import caller, document
from tests.tenantry.onboarding.registration import NAME
from tests.tenantry.serving.conftest import world  # noqa: F401 - a fixture
from tests.tenantry.serving.tiny_family import MEANS, World

DAY = date(2026, 3, 2)
PAGE = Path(__file__).resolve().parents[3] / "docs" / "querying-results.md"
NIGHTLY = ids.batch_name("nightly")
VERSION = ids.version_name("v1")


@dataclass
class Listening(Heard):
    """Records what is said, too."""

    said: list[str] = field(default_factory=list)

    def info(self, message: str) -> None:
        self.said.append(message)


def asked(deployment: Deployment, sql: str) -> list[dict[str, Any]]:
    """Athena's answer, by ``tenantry query``."""
    found = document(caller(deployment)("query", sql, "--json"))
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


@pytest.fixture
def drawn(world: World) -> World:  # noqa: F811 - the fixture
    """Its nightly batch keeps what has not changed."""
    batch = world.tiny.batches[0].model_copy(update={"request": {"add": 1}, "keep_unchanged": True})
    tiny = world.tiny.model_copy(update={"batches": (batch,)})
    return World(world.deployment, tiny, world.endpoint, world.folder)


def predicted(
    world: World,  # noqa: F811 - the fixture
    tenants: list[ids.TenantId],
    day: date,
    salt: str = "r",
) -> tuple[Listening, list[TableWritten]]:
    heard, tables = Listening(), list[TableWritten]()
    period = Period(world.tiny.batches[0], day)
    failures = predict(
        world.deployment, world.tiny, tenants, period, salt, heard, poll=0.1, tabled=tables.append
    )
    assert failures == {}
    return heard, tables


def test_a_days_answers_of_all_tenants_are_a_partition_of_a_table(drawn: World) -> None:
    still, moving = drawn.tenant(), drawn.tenant()
    heard, (table,) = predicted(drawn, [still, moving], DAY)
    assert heard.materialized_[still]["dagster/table_name"] == "tenantry.energy_nightly"
    assert (table.name, table.rows) == ("tenantry.energy_nightly", 2)
    assert table.columns["tenant"] == table.columns["day"] == "string"
    assert table.columns["mean"] == "double"

    everything = "SELECT tenant, mean, day FROM energy_nightly ORDER BY mean"
    first = [
        {"tenant": tenant, "mean": MEANS[tenant] + 1, "day": DAY.isoformat()}
        for tenant in (still, moving)
    ]
    assert asked(drawn.deployment, everything) == first
    # A repeated run of the day puts the new rows in place of the old, whoever's job had them.
    drawn.crown(moving, 2)
    _, (table,) = predicted(drawn, [still, moving], DAY, "s")
    assert table.rows == 1
    first[1]["mean"] = MEANS[moving] + 1
    assert asked(drawn.deployment, everything) == first
    # What is kept for the next day stands in its partition as well.
    second = DAY + timedelta(days=1)
    heard, (table,) = predicted(drawn, [still, moving], second, "t")
    assert "kept_from" in heard.materialized_[still]
    assert heard.materialized_[still]["dagster/table_name"] == table.name
    assert table.rows == 2
    of_second = "SELECT tenant, mean FROM energy_nightly WHERE day = '2026-03-03' ORDER BY mean"
    rows = asked(drawn.deployment, of_second)
    assert [row["mean"] for row in rows] == [MEANS[still] + 1, MEANS[moving] + 1]
    read_as_the_docs_do(drawn.deployment, {still, moving})


def test_a_summary_asks_of_its_batch_and_day_and_keeps_its_first_rows(drawn: World) -> None:
    tenants = [drawn.tenant() for _ in range(2)]
    predicted(drawn, tenants, DAY)
    _, (table,) = predicted(drawn, tenants[:1], DAY + timedelta(days=1))

    def summary(sql: str | None, day: date = DAY) -> QueryAnswer | None:
        batch = drawn.tiny.batches[0].model_copy(update={"summary": sql})
        return summary_of(drawn.deployment, Period(batch, day), table.name)

    assert summary(None) is None
    ours = f"AND tenant IN ('{tenants[0]}', '{tenants[1]}')"
    counted = "SELECT day, count(*) AS tenants FROM {table} WHERE day = '{day}' GROUP BY day"
    counted = counted.replace("GROUP", f"{ours} GROUP")
    first, second = summary(counted), summary(counted, DAY + timedelta(days=1))
    assert first is not None
    assert second is not None
    assert [*first.rows, *second.rows] == [[DAY.isoformat(), 2], ["2026-03-03", 1]]
    many = summary("SELECT a.mean FROM {table} a, range(30) WHERE day = '{day}'")
    assert many is not None
    assert (len(many.rows), many.complete) == (MOST_OF_A_SUMMARY, False)
    with pytest.raises(QueryFailedError, match="the query failed"):
        summary("SELECT nothing FROM {table}")


@pytest.mark.parametrize("sql", ["SELECT {tenant}", "SELECT {", "SELECT {table.x}", "SELECT {}"])
def test_a_summary_with_other_braces_is_refused(sql: str) -> None:
    said = read_workloads()["energy"].batches[0].model_dump(exclude_unset=True)
    with pytest.raises(ValueError, match=r"neither \{table\} nor \{day\}"):
        Batch.model_validate(said | {"summary": sql})
    doubled = Batch.model_validate(said | {"summary": "SELECT MAP {{'a': 1}} FROM {table}"})
    assert doubled.summary_of("t", "d") == "SELECT MAP {'a': 1} FROM t"


def read_as_the_docs_do(deployment: Deployment, tenants: set[ids.TenantId]) -> None:
    """docs/querying-results.md holds on an ordinary deployment, word for word."""
    found = [(kind, text) for kind, text in blocks(PAGE) if kind]
    assert [kind for kind, _ in found] == ["console", "yaml", "python", "python"]
    (_, command), (_, of_churn), (_, by_pandas), (_, by_boto3) = found
    summary = yaml.safe_load(of_churn.replace("    …\n", ""))["batches"][0]["summary"]
    assert summary == read_workloads()["churn"].batches[0].summary
    shown = caller(deployment)(*shlex.split(command.removeprefix("$ tenantry ")))
    assert {line.split()[0] for line in shown.stdout.splitlines()[1:]} == tenants
    names: dict[str, Any] = {}
    exec(by_pandas, names)  # noqa: S102 - it is our own page
    assert set(names["nightly"]["tenant"]) == tenants
    exec(by_boto3, names)  # noqa: S102 - the same
    assert {row[0]["VarCharValue"] for row in names["rows"]} == {"tenant", *tenants}


def test_a_prediction_does_not_fail_with_its_table(
    world: World,  # noqa: F811 - the fixture
) -> None:
    tenant, glue = world.tenant(), world.deployment.glue
    break_calls(glue, "GetTable", 1, "AccessDeniedException", 400, "not yours")
    heard, tables = predicted(world, [tenant], DAY + timedelta(days=30))
    assert tables == []
    assert "dagster/table_name" not in heard.materialized_[tenant]
    (said,) = [one for one in heard.said if "tenantry.energy_nightly" in one]
    assert "not yours" in said


# ---- without a transform job ---------------------------------------------------------------------


class Answers:
    """Answers that lie in S3 as a transform job's do, and their table."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment, self.energy = deployment, read_workloads()["energy"]
        self.heard = Listening()

    def table(self, workload: Workload | None = None) -> ResultTable:
        chosen = workload or self.energy
        period = Period(chosen.batches[0], DAY)
        return ResultTable(self.deployment, chosen, period, self.heard)

    def answer(self, tenant: str, content: bytes) -> TenantPrediction:
        who = ids.tenant_id(tenant)
        key = s3_keys.prediction(NAME, who, NIGHTLY, DAY)
        objects.write_bytes(self.deployment.s3, self.deployment.data_bucket, key, content)
        return TenantPrediction(who, VERSION, key, 1, None)

    def asked(self, sql: str) -> list[list[Any]]:
        return [list(row.values()) for row in asked(self.deployment, sql)]


@pytest.fixture
def answers(deployment: Deployment) -> Answers:
    return Answers(deployment)


def test_an_answer_that_cannot_be_rows_is_left_out_and_the_others_are_there(
    answers: Answers,
) -> None:
    forecast = {"times": ["a", "b"], "mean": [1, 2.5], "quantiles": {"0.1": [0, None]}}
    job = [
        answers.answer("acme", json.dumps(forecast).encode()),
        answers.answer("globex", b"\x89PNG no json"),
        answers.answer("initech", b" " * (MAX_SHOWN_BYTES + 1)),
    ]
    answers.table().add("job-1", job)
    sql = "SELECT tenant, times, mean, quantiles_0_1 FROM energy_nightly ORDER BY mean"
    assert answers.asked(sql) == [["acme", "a", 1.0, 0.0], ["acme", "b", 2.5, None]]
    assert sorted(answers.heard.said) == [
        "the table tenantry.energy_nightly leaves out 1 answers of more than 8 MB",
        "the table tenantry.energy_nightly leaves out 1 answers that are no JSON",
    ]


def test_a_table_grows_by_columns_and_keeps_the_types_it_has(answers: Answers) -> None:
    answers.table().add("job-1", [answers.answer("acme", b'{"score": 1.5}')])
    changed = b'{"score": "high", "why": {"a": 1}, "sure": true}'
    answers.table().add("job-2", [answers.answer("globex", changed)])
    calls = answers.deployment.aws_calls
    assert (calls["glue:CreateTable"], calls["glue:UpdateTable"]) == (1, 1)
    # The table is as it should be: nothing changes it.
    answers.table().add("job-2", [answers.answer("globex", changed)])
    assert (calls["glue:CreateTable"], calls["glue:UpdateTable"]) == (1, 1)
    sql = "SELECT tenant, score, why, sure FROM energy_nightly ORDER BY tenant"
    assert answers.asked(sql) == [["acme", 1.5, None, None], ["globex", None, '{"a": 1}', True]]
    assert answers.heard.said[-1].endswith(
        "leaves out 1 values of another type than their column's"
    )


def test_a_query_that_fails_says_why_and_a_long_answer_is_cut(answers: Answers) -> None:
    content = json.dumps({"mean": list(range(1500))}).encode()
    answers.table().add("job-1", [answers.answer("acme", content)])
    call = caller(answers.deployment)
    refused = call("query", "SELECT nothing FROM energy_nightly", status=1).stderr
    assert "the query failed" in refused
    assert "nothing" in refused
    sql = "SELECT tenant, mean FROM energy_nightly ORDER BY mean"
    shown = call("query", sql, "--most", "2").stdout
    assert [line.split() for line in shown.splitlines()[1:3]] == [["acme", "0.0"], ["acme", "1.0"]]
    assert "the first 2 rows" in shown
    paged = document(call("query", sql, "--json", "--most", "1400"))
    assert [row[1] for row in paged["rows"]] == list(range(1400))
    assert paged["complete"] is False
    break_calls(answers.deployment.athena, "StartQueryExecution", 1, "AccessDeniedException", 400)
    assert "QueryPolicy" in call("query", sql, status=1).stderr
    break_calls(
        answers.deployment.athena,
        "StartQueryExecution",
        1,
        "InvalidRequestException",
        400,
        "line 1:8: mismatched input",
    )
    assert "mismatched input" in call("query", sql, status=1).stderr
