"""Endpoints that serve nobody any more, and the configurations, models and roles without one.

A silo tenant that moves to another tier leaves its endpoint behind, and an update leaves the
configuration and the model before it. Endpoints cost money for each hour. All are removed once they
have been unused for ``serving.remove_unused_after_days``. Until then a rollback finds its endpoint,
and clients that looked up the route before are answered.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from botocore.exceptions import ClientError

from tenantry.aws.silo_roles import delete_silo_role, silo_role_name, silo_roles
from tenantry.batch.transform import transform_job_runs
from tenantry.capacity.registration import deregister
from tenantry.hosting import endpoints
from tenantry.hosting.safe_updates import forget_guard
from tenantry.hosting.shapes.asynchronous import ASYNCHRONOUS
from tenantry.hosting.shapes.catalogue import real_time_shape
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids, s3_keys, sagemaker_names, table_keys
from tenantry.names.tiers import Machines, machines_of
from tenantry.requests.queue import RequestQueue
from tenantry.tenants.deletion import delete_under
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

Kind = Literal["endpoint", "configuration", "model", "role"]
_AT_REST: Final = frozenset({"InService", "OutOfService", "Failed"})
"""The statuses in which SageMaker deletes an endpoint; one that changes waits for the next look."""
_MOST_NOTED: Final = 4000  # endpoints; an item of DynamoDB holds 400 KB


@dataclass(frozen=True)
class Unused:
    """A resource that nothing needs; ``since`` is when that was first seen, or when a
    configuration, a model or a role was made."""

    kind: Kind
    name: str
    since: datetime


def unused_endpoints(deployment: Deployment, workload: Workload, now: datetime) -> list[Unused]:
    """The workload's endpoints that no champion is served by and no open request will need.

    The shared endpoints of the file's own tier are never among them. What is seen for the first
    time is noted, and what is used again is forgotten.
    """
    name = ids.workload_name(workload.name)
    item = table_keys.unused_endpoints_item(name)
    row = deployment.requests.get(item) or {}
    noted: Mapping[str, str] = row.get("since", {})
    used = _used(deployment, workload)
    found = {
        one: noted.get(one, now.isoformat())
        for one in sorted(_there(deployment, name).keys() - used)[:_MOST_NOTED]
    }
    if found != noted:
        deployment.requests.put(item, {"since": found})
    return [Unused("endpoint", one, datetime.fromisoformat(at)) for one, at in found.items()]


def unused_parts(deployment: Deployment, workload: Workload) -> list[Unused]:
    """The configurations and models that no endpoint of the workload has, and the models of
    batches that are over.

    An endpoint with one of each is not looked at: it has these.
    """
    name = ids.workload_name(workload.name)
    there = _there(deployment, name)
    made = _made(deployment, name, _MODELS)
    configurations = _by_endpoint(deployment, name, _made(deployment, name, _CONFIGS))
    models = _by_endpoint(deployment, name, made)
    found = _unused_of_batches(deployment, name, made)
    for endpoint in configurations.keys() | models.keys():
        of_endpoint = configurations.get(endpoint, {}), models.get(endpoint, {})
        if endpoint in there:
            if max(map(len, of_endpoint)) < 2:
                continue
            kept = _kept(deployment, endpoint)
            if kept is None:
                continue
        else:
            kept = frozenset()
        kinds: tuple[Kind, Kind] = ("configuration", "model")
        for kind, made in zip(kinds, of_endpoint, strict=True):
            found += [Unused(kind, one, at) for one, at in made.items() if one not in kept]
    return found


def unused_roles(deployment: Deployment, workload: Workload) -> list[Unused]:
    """The execution roles of silo tenants that have no endpoint of the workload any more, and will
    need none. Where the names of endpoints had to be shortened, no role is told unused."""
    name = ids.workload_name(workload.name)
    if sagemaker_names.silo_names_are_shortened(deployment.prefix, name):
        return []
    homes = _used(deployment, workload) | _there(deployment, name).keys()
    needed = {silo_role_name(deployment, sagemaker_names.without_end(one)) for one in homes}
    return [
        Unused("role", one.name, one.made)
        for one in silo_roles(deployment, name)
        if one.name not in needed
    ]


def remove_unused(
    deployment: Deployment, workload: Workload, now: datetime, *, after_days: float
) -> list[Unused]:
    """Remove what has been unused for so many days; returns that.

    The configuration, the model and the role of a removed endpoint go with the first look that
    finds them old enough.
    """
    roles = unused_roles(deployment, workload)  # an endpoint that is removed now still has its role
    old = now - timedelta(days=after_days)
    removed = list[Unused]()
    statuses = _there(deployment, ids.workload_name(workload.name))
    for one in unused_endpoints(deployment, workload, now):
        if one.since <= old and statuses.get(one.name) in _AT_REST:
            deregister(deployment, one.name)
            _delete(deployment.sagemaker.delete_endpoint, EndpointName=one.name)
            removed.append(one)
    _delete_archives(deployment, workload, removed)
    for one in unused_parts(deployment, workload):
        if one.since <= old:
            if one.kind == "configuration":
                forget_guard(deployment, one.name)
                _delete(deployment.sagemaker.delete_endpoint_config, EndpointConfigName=one.name)
            else:
                _delete(deployment.sagemaker.delete_model, ModelName=one.name)
            removed.append(one)
    for one in roles:
        if one.since <= old:
            delete_silo_role(deployment, one.name)
            removed.append(one)
    return removed


def _delete_archives(deployment: Deployment, workload: Workload, removed: Sequence[Unused]) -> None:
    """Delete the archives of machines that have no endpoint any more. Those of one machine's
    endpoints serve from one prefix."""
    if not removed:
        return
    left = {
        sagemaker_names.without_end(one)
        for one in _used(deployment, workload)
        | _there(deployment, ids.workload_name(workload.name)).keys()
    }
    for home in {sagemaker_names.without_end(one.name) for one in removed} - left:
        prefix = s3_keys.endpoint_models_prefix(home)
        delete_under(deployment, deployment.data_bucket, prefix)


def _delete(delete: Any, **named: str) -> None:
    try:
        delete(**named)
    except ClientError as error:
        if not endpoints.is_missing(error):  # another process deleted it
            raise


def _used(deployment: Deployment, workload: Workload) -> set[str]:
    """The names of endpoints that serve a champion, or will serve what is on its way."""
    name = ids.workload_name(workload.name)
    machines: set[Machines] = {workload.shared_machines}
    serve = set[str]()
    for served in ModelRegistry(deployment).champions(name):
        machines.add(machines_of(served.tier, served.tenant))
        serve.add(served.endpoint)
    for owed in RequestQueue(deployment).open(name):
        machines.add(machines_of(owed.tier, owed.tenant))
    return serve | {
        shape.endpoint_name(deployment.prefix, name, one)
        for one in machines
        for shape in (real_time_shape(workload, one.tier), ASYNCHRONOUS)
    }


def _there(deployment: Deployment, workload: ids.WorkloadName) -> dict[str, str]:
    """The workload's endpoints by name, each with its status. Those of other deployments are left
    out, and those whose names had to be shortened."""
    beginning = f"{deployment.prefix}-{workload}-"
    pattern = re.compile(re.escape(beginning) + sagemaker_names.OF_A_WORKLOAD)
    return {
        one["EndpointName"]: one["EndpointStatus"]
        for one in endpoints.endpoints_beginning(deployment, beginning)
        if pattern.fullmatch(one["EndpointName"]) and one["EndpointStatus"] != "Deleting"
    }


class _Listed(NamedTuple):
    """An operation that lists resources, and the fields of its answer."""

    operation: str
    found: str
    name: str


_CONFIGS: Final = _Listed("list_endpoint_configs", "EndpointConfigs", "EndpointConfigName")
_MODELS: Final = _Listed("list_models", "Models", "ModelName")


def _made(
    deployment: Deployment, workload: ids.WorkloadName, listed: _Listed
) -> dict[str, datetime]:
    """The workload's configurations or models, with the moments when they were made."""
    sagemaker: Any = deployment.sagemaker
    beginning = f"{deployment.prefix}-{workload}-"
    return {
        one[listed.name]: one["CreationTime"]
        for page in sagemaker.get_paginator(listed.operation).paginate(NameContains=beginning)
        for one in page[listed.found]
        if one[listed.name].startswith(beginning)
    }


def _by_endpoint(
    deployment: Deployment, workload: ids.WorkloadName, made: Mapping[str, datetime]
) -> dict[str, dict[str, datetime]]:
    """Those that were made for an endpoint, by its name."""
    beginning = re.escape(f"{deployment.prefix}-{workload}-")
    pattern = re.compile(f"({beginning}{sagemaker_names.OF_A_WORKLOAD})-[0-9a-f]{{10}}")
    found: dict[str, dict[str, datetime]] = defaultdict(dict)
    for name, at in made.items():
        if match := pattern.fullmatch(name):
            found[match[1]][name] = at
    return found


def _unused_of_batches(
    deployment: Deployment, workload: ids.WorkloadName, made: Mapping[str, datetime]
) -> list[Unused]:
    """The models of transform jobs that do not run. A run deletes the model of its job, unless it
    is killed before."""
    pattern = re.compile(re.escape(f"{deployment.prefix}-{workload}-") + sagemaker_names.OF_A_BATCH)
    return [
        Unused("model", name, at)
        for name, at in made.items()
        if pattern.fullmatch(name) and not transform_job_runs(deployment, name)
    ]


def _kept(deployment: Deployment, endpoint: str) -> frozenset[str] | None:
    """The configuration and the models of an endpoint; None while it changes."""
    described = endpoints.describe_endpoint(deployment, endpoint)
    if described is None or described["EndpointStatus"] != "InService":
        return None
    config = described["EndpointConfigName"]
    of_config = deployment.sagemaker.describe_endpoint_config(EndpointConfigName=config)
    variants = [*of_config["ProductionVariants"], *of_config.get("ShadowProductionVariants", [])]
    return frozenset([config, *(one["ModelName"] for one in variants)])
