"""Ten thousand tenants at rest cost the sensors nothing, and a daemon that dies in the middle of a
pack costs no tenant a model."""

from __future__ import annotations

import copy
import importlib
import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from dagster import DagsterInstance, SkipReason, build_sensor_context
from dagster._config import ConfigType, process_config, resolve_to_config_type
from dagster._core.instance.config import dagster_instance_config

from infrastructure.dagster_processes import INSTANCE, ROOT, dagster_processes
from infrastructure.deploy import deploy
from infrastructure.local_cloud import free_port, running
from orchestration.definitions import defs
from orchestration.launcher import PACK_TAG
from orchestration.partitions import add_tenants, tenants_of
from tenantry.aws.deployment import Deployment
from tenantry.models.registry import ModelRegistry, ModelVersion
from tenantry.names import ids, table_keys
from tenantry.requests.queue import RequestQueue
from tenantry.serving.client import TenantClient
from tenantry.workloads.schema import Workload
from tests.orchestration.running import TENANTRY
from tests.orchestration.test_killed_run import served_in_dagster, wait_for
from tests.tenantry.onboarding.registration import route_to

ENERGY = ids.workload_name("energy")
SENSORS = ("new_uploads", "fine_tuning_launcher", "asynchronous_failures", "operator_events")
FEW, MANY, FINISHED_ROWS = 10, 10_000, 1_000


def tenants(count: int) -> list[ids.TenantId]:
    return [ids.tenant_id(f"idle-{number:05d}") for number in range(count)]


def finish_one(deployment: Deployment, tenant: ids.TenantId) -> None:
    """A tenant's first request and model, from the queue to the champion."""
    queue, registry = RequestQueue(deployment), ModelRegistry(deployment)
    request = ids.request_id_of(ENERGY, tenant, "content")
    queue.accept(
        ENERGY,
        tenant,
        request,
        f"uploads/{tenant}/energy/first/manifest.json",
        "bridge",
        first=True,
    )
    (row,) = queue.of_tenant(ENERGY, tenant)
    pack = ids.pack_id_of([request])
    (row,) = queue.claim([row], pack)
    for status in ("training", "trained", "registered"):
        row = queue.move(row, status, why="a test")
    assert row.version is not None
    model = ModelVersion(
        tenant, ENERGY, row.version, "bridge", "archive", 1, "0" * 64, request, "job"
    )
    registry.add(model)
    registry.crown(model, route_to("endpoint", model), None)


def multiply(
    deployment: Deployment, table: str, one: ids.TenantId, others: Sequence[ids.TenantId]
) -> None:
    """Give other tenants the same rows as one tenant."""
    answer = deployment.dynamodb.query(
        TableName=table,
        KeyConditionExpression="tenant = :tenant",
        ExpressionAttributeValues={":tenant": {"S": table_keys.table_partition(one, ENERGY)}},
    )
    puts: list[Any] = []
    for other in others:
        for item in copy.deepcopy(answer["Items"]):
            item["tenant"] = {"S": table_keys.table_partition(other, ENERGY)}
            puts.append({"PutRequest": {"Item": item}})
    for start in range(0, len(puts), 25):
        written = deployment.dynamodb.batch_write_item(
            RequestItems={table: puts[start : start + 25]}
        )
        assert not written.get("UnprocessedItems")


def calls_of_idle_ticks(instance: DagsterInstance) -> dict[str, dict[str, int]]:
    """The calls to AWS of one evaluation of each sensor that finds nothing to do."""
    counted = TENANTRY.deployment.aws_calls
    found = {}
    for name in SENSORS:
        before = Counter(counted)
        with build_sensor_context(
            instance=instance, resources={"tenantry": TENANTRY}, definitions=defs
        ) as context:
            result = defs.resolve_sensor_def(name)(context)
            said = list(result) if isinstance(result, Iterator) else [result]
        assert [type(entry) for entry in said] == [SkipReason], f"{name} found something to do"
        found[name] = dict(Counter(counted) - before)
    return found


def test_ticks_with_nothing_new_cost_the_same_calls_for_ten_and_for_ten_thousand_tenants(
    deployment: Deployment, dagster_instance: DagsterInstance
) -> None:
    first, *others = tenants(FINISHED_ROWS)
    finish_one(deployment, first)
    add_tenants(dagster_instance, ENERGY, tenants(FEW))
    calls_of_idle_ticks(dagster_instance)  # a process creates its clients only once
    few = calls_of_idle_ticks(dagster_instance)

    add_tenants(dagster_instance, ENERGY, tenants(MANY))
    for table in (deployment.requests_table, deployment.models_table):
        multiply(deployment, table, first, others)
    assert len(dagster_instance.get_dynamic_partitions(str(tenants_of("energy").name))) == MANY
    assert len(ModelRegistry(deployment).champions(ENERGY)) == FINISHED_ROWS

    many = calls_of_idle_ticks(dagster_instance)
    assert many == few
    assert all(sum(calls.values()) > 0 for calls in few.values()), "they did look"


def test_the_documented_instances_are_ones_dagster_accepts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("DAGSTER_HOME", "DAGSTER_LOGS_BUCKET"):
        monkeypatch.setenv(variable, "anything")
    fragments = re.findall(
        r"```yaml\n(.*?)```", (ROOT / "docs" / "scaling.md").read_text(), re.DOTALL
    )
    assert len(fragments) == 2
    checked = []
    for fragment in fragments:
        (tmp_path / "dagster.yaml").write_text(fragment)
        dagster_instance_config(str(tmp_path))  # refuses an unknown field
        document = yaml.safe_load(fragment)
        assert document["run_queue"]["max_user_code_failure_retries"] == 5, "as on one machine"
        for part in (
            document["storage"]["custom"],
            document["run_launcher"],
            document["compute_logs"],
        ):
            if part["module"] == "dagster_k8s":
                continue  # not a dependency of this project
            configurable = getattr(importlib.import_module(part["module"]), part["class"])
            schema = resolve_to_config_type(configurable.config_type())
            assert isinstance(schema, ConfigType)
            outcome = process_config(schema, part["config"])
            assert outcome.success, outcome.errors
            checked.append(part["class"])
    assert checked == [
        "ChosenStorage",
        "EcsRunLauncher",
        "S3ComputeLogManager",
        "ChosenStorage",
        "S3ComputeLogManager",
    ]


def test_on_a_busy_machine_a_launch_is_tried_again_and_code_may_take_long_to_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    shutil.copyfile(INSTANCE, tmp_path / "dagster.yaml")
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        queue = instance.get_concurrency_config().run_queue_config
        assert queue is not None
        assert queue.max_user_code_failure_retries == 5, (
            "Dagster's own default fails the run at once"
        )
        assert instance.code_server_process_startup_timeout >= 1800


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_daemon_killed_in_the_middle_of_a_pack_is_started_again_and_all_is_done_once(
    tmp_path: Path, energy: Workload, consumption: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    who = [ids.tenant_id(f"restart-{number:02d}") for number in range(12)]
    with running(tmp_path / "cloud", ROOT / "containers") as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        deploy()
        deployment = Deployment.from_stack()
        queue, registry = RequestQueue(deployment), ModelRegistry(deployment)
        environment = {
            **cloud.environment,
            "TENANTRY_POLL_SECONDS": "0.5",
            "TENANTRY_LOST_RUN_SECONDS": "20",
        }

        def in_the_middle() -> bool:
            rows = [row for tenant in who for row in queue.of_tenant(ENERGY, tenant)]
            return any(row.status in {"claimed", "training"} for row in rows)

        with dagster_processes(tmp_path / "dagster", free_port(), environment) as dagster:
            for number, tenant in enumerate(who):
                lines = consumption[f"tenant-{number % 6}"].splitlines(keepends=True)
                with TenantClient(deployment, energy, tenant) as client:
                    client.upload(
                        {"consumption.csv": b"".join(lines[: len(lines) - number])},
                        {"timezone": "UTC"},
                    )
            wait_for("a pack is on its way", in_the_middle, 120, every=0.05)
            family = psutil.Process(dagster.process.pid).children(recursive=True)
            daemons = [
                process
                for process in family
                if re.search(r"dagster[._-]+daemon", " ".join(process.cmdline()))
            ]
            assert daemons, "there is a daemon to kill"
            for daemon in daemons:
                os.kill(daemon.pid, signal.SIGKILL)
        with dagster_processes(tmp_path / "dagster", free_port(), environment) as dagster:
            monkeypatch.setenv("DAGSTER_HOME", str(dagster.home))
            wait_for("all are served", lambda: len(registry.champions(ENERGY)) == len(who), 300)
            with DagsterInstance.from_config(str(dagster.home)) as instance:
                wait_for("all are materialised", lambda: served_in_dagster(instance, who), 60)
                packs = Counter(
                    str(run.tags[PACK_TAG]) for run in instance.get_runs() if PACK_TAG in run.tags
                )
            wait_for("no row is open", lambda: not queue.open(ENERGY), 60)
        for tenant in who:
            (row,) = queue.of_tenant(ENERGY, tenant)
            assert row.attempt == 1, "a daemon that died is not the tenant's failure"
            assert [change["status"] for change in row.history].count("registered") == 1
            champion = registry.champion(tenant, ENERGY)
            assert champion is not None
            assert champion.turn == 1
            assert len(registry.versions(tenant, ENERGY)) == 1
        jobs = {
            job["TrainingJobName"]
            for page in deployment.sagemaker.get_paginator("list_training_jobs").paginate()
            for job in page["TrainingJobSummaries"]
        }
        assert len(jobs) == len(packs), "one job a pack, whatever runs it took"
