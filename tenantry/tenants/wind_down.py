"""The end of a workload: finds workloads whose YAML was removed before their requests and
endpoints, and removes these remains.

The requests table lists all workloads that were ever offered, because a removed one has no file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from boto3.dynamodb.conditions import Attr
from botocore.exceptions import ClientError

from tenantry.aws.notices import Notice, tell_tenant
from tenantry.aws.silo_roles import delete_silo_role, silo_roles
from tenantry.aws.tables import PARTITION
from tenantry.capacity.registration import deregister
from tenantry.hosting import endpoints
from tenantry.hosting.shapes.catalogue import SHAPES
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids, s3_keys, sagemaker_names, table_keys
from tenantry.names.tiers import Shared, SharedTier
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import OPEN, NotTheirTurnError, Request
from tenantry.requests.workload_controls import WorkloadControls
from tenantry.tenants.deletion import delete_under
from tenantry.training.jobs import stop_job_of_pack

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_ENDED: Final = "workload_ended"
_SILO_ENDPOINTS_LOOKED_AT: Final = 20
# characters of an endpoint's name in its models' and configurations' names
# (``sagemaker_names.content_addressed_name``)
_MAX_OF_AN_ENDPOINT: Final = 52


@dataclass(frozen=True)
class Leftover:
    """The remains of a workload whose file is gone."""

    workload: ids.WorkloadName
    open_requests: int
    endpoints: tuple[str, ...]

    def __str__(self) -> str:
        endpoints = ", ".join(self.endpoints) or "no endpoint"
        return (
            f"{self.workload}.yaml is gone, but {self.workload} has {self.open_requests} open "
            f"requests and {endpoints}."
            f" Run `tenantry wind-down {self.workload}`, or put the file back."
        )


def note_workloads(deployment: Deployment, offered: Collection[str]) -> None:
    """Record the offered workloads, and forget removed ones without remains."""
    known = _known(deployment)
    new, gone = set(offered) - known, known - set(offered)
    finished = gone - {leftover.workload for leftover in left_behind(deployment, offered)}
    if new:
        deployment.requests.update(table_keys.WORKLOADS_ITEM, adding={"names": new})
    _forget_workloads(deployment, finished)


def _forget_workloads(deployment: Deployment, names: Collection[str]) -> None:
    if names:
        deployment.requests.update(table_keys.WORKLOADS_ITEM, deleting={"names": set(names)})


def _known(deployment: Deployment) -> set[str]:
    row = deployment.requests.get(table_keys.WORKLOADS_ITEM)
    return set(row.get("names", ())) if row is not None else set()


def left_behind(deployment: Deployment, offered: Collection[str]) -> list[Leftover]:
    """The remains of workloads that were offered once (``note_workloads``) and no longer are."""
    found = []
    for name in map(ids.workload_name, sorted(_known(deployment) - set(offered))):
        counts = RequestQueue(deployment).counts(name)
        leftover = Leftover(
            name,
            sum(counts[status] for status in OPEN),
            tuple(_endpoints_by_name(deployment, name)),
        )
        if leftover.open_requests or leftover.endpoints:
            found.append(leftover)
    return found


def _endpoints_by_name(deployment: Deployment, workload: ids.WorkloadName) -> Iterator[str]:
    """The endpoints a workload would have, looked up by their names: the shared ones, and some of
    its champions'."""
    tiers: tuple[SharedTier, ...] = ("bridge", "pool")
    names = [
        shape.endpoint_name(deployment.prefix, workload, Shared(tier))
        for shape in SHAPES.values()
        for tier in tiers
    ]
    served = {
        champion.endpoint for champion in ModelRegistry(deployment).champions(workload)
    } - set(names)
    for name in [*names, *sorted(served)[:_SILO_ENDPOINTS_LOOKED_AT]]:
        found = endpoints.describe_endpoint(deployment, name)
        if found is not None and found["EndpointStatus"] != "Deleting":
            yield name


# ---- winding down --------------------------------------------------------------------------------


@dataclass
class WoundDown:
    """The results of winding down."""

    cancelled: list[Request] = field(default_factory=list)
    moved_on: list[Request] = field(default_factory=list)
    endpoints: list[str] = field(default_factory=list)
    configurations: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    objects: int = 0
    rows: int = 0


def wind_down(
    deployment: Deployment, workload: ids.WorkloadName, *, by: str, delete_data: bool
) -> WoundDown:
    """Cancel a workload's open requests and delete its endpoints and its silo tenants' roles. A
    repeated call finishes an interrupted one.

    Args:
        deployment: tables, buckets and endpoints.
        workload: its file must be gone, or its sensors would make its endpoint anew.
        by: the actor, for the histories.
        delete_data: whether to delete its uploads, models and predictions, and its rows, too.
    """
    done, queue = WoundDown(), RequestQueue(deployment, by=by)
    WorkloadControls(deployment, by=by).pause(workload, "it is wound down")
    rows = queue.open(workload)
    for row in rows:
        if row.notify_owner:
            # Tell first, cancel second: a process that dies in between leaves the owner told twice,
            # which is harmless, and never untold.
            message = "No model is made from your upload: this product is no longer offered."
            notice = Notice(
                "model_not_made", workload, row.tenant, message, request=row.request, code=_ENDED
            )
            tell_tenant(deployment, notice)
        try:
            done.cancelled.append(queue.cancel(row, why="the workload is wound down"))
        except NotTheirTurnError:
            done.moved_on.append(row)
    for pack in sorted({row.pack for row in rows if row.pack is not None}):
        stop_job_of_pack(deployment, workload, pack)
    _delete_endpoints(deployment, workload, done)
    for role in list(silo_roles(deployment, workload)):
        delete_silo_role(deployment, role.name)
        done.roles.append(role.name)
    if delete_data:
        _delete_objects(deployment, workload, done)
        _delete_rows(deployment, workload, done)
    if not done.moved_on:
        WorkloadControls(deployment, by=by).resume(workload)
        _forget_workloads(deployment, [workload])
    return done


def _delete_endpoints(deployment: Deployment, workload: ids.WorkloadName, done: WoundDown) -> None:
    """Delete a workload's endpoints, configurations and models, found by their names. Those of
    other deployments stay."""
    sagemaker = deployment.sagemaker
    start = f"{deployment.prefix}-{workload}-"
    # Names that are too long end in a digest (``sagemaker_names``), so the champions' rows tell
    # which are the workload's.
    served = {champion.endpoint for champion in ModelRegistry(deployment).champions(workload)}
    of_champions = "|".join(map(re.escape, served)) or "(?!)"
    of_tiers = rf"{re.escape(start)}{sagemaker_names.OF_A_WORKLOAD}"
    endpoint = rf"(?:{of_tiers}|(?:{of_champions})(?:-async)?)"
    known = (
        r"|".join(
            re.escape(name[:_MAX_OF_AN_ENDPOINT]) for name in _found(sagemaker, endpoint, start)
        )
        or "(?!)"
    )
    made = re.compile(rf"(?:{endpoint}|{known})-[0-9a-f]{{10}}")
    lists: tuple[tuple[str, str, str, Any, re.Pattern[str], list[str]], ...] = (
        (
            "list_endpoints",
            "Endpoints",
            "EndpointName",
            sagemaker.delete_endpoint,
            re.compile(endpoint),
            done.endpoints,
        ),
        (
            "list_endpoint_configs",
            "EndpointConfigs",
            "EndpointConfigName",
            sagemaker.delete_endpoint_config,
            made,
            done.configurations,
        ),
        ("list_models", "Models", "ModelName", sagemaker.delete_model, made, done.models),
    )
    for operation, listed, field_name, delete, pattern, deleted in lists:
        pages = sagemaker.get_paginator(operation).paginate(NameContains=start)  # type: ignore[call-overload]
        found = [one for page in pages for one in page[listed]]
        for name in [one[field_name] for one in found if one.get("EndpointStatus") != "Deleting"]:
            if pattern.fullmatch(name):
                if listed == "Endpoints":
                    deregister(deployment, name)
                try:
                    delete(**{field_name: name})
                except ClientError as error:
                    if not endpoints.is_missing(error):  # another process deleted it
                        raise
                deleted.append(name)


def _found(sagemaker: Any, endpoint: str, start: str) -> list[str]:
    """The existing endpoints whose names match a pattern."""
    pages = sagemaker.get_paginator("list_endpoints").paginate(NameContains=start)
    names = [str(one["EndpointName"]) for page in pages for one in page["Endpoints"]]
    return [name for name in names if re.fullmatch(endpoint, name)]


def _delete_objects(deployment: Deployment, workload: ids.WorkloadName, done: WoundDown) -> None:
    data, roots = deployment.data_bucket, [(deployment.uploads_bucket, s3_keys.UPLOADS_ROOT)]
    roots += [(data, root) for root in s3_keys.TENANT_ROOTS]
    prefixes = [(data, f"{root}{workload}/") for root in s3_keys.WORKLOAD_ROOTS]
    homes = {sagemaker_names.without_end(name) for name in done.endpoints}
    prefixes += [(data, s3_keys.endpoint_models_prefix(name)) for name in sorted(homes)]
    prefixes += [
        (bucket, f"{tenant}{workload}{end}")
        for bucket, root in roots
        for tenant in _tenants(deployment, bucket, root)
        for end in ("/", ".")  # of default models, and of named ones
    ]
    for bucket, prefix in prefixes:
        done.objects += delete_under(deployment, bucket, prefix)


def _tenants(deployment: Deployment, bucket: str, root: str) -> Iterator[str]:
    """The folders of all tenants of all workloads below a root."""
    pages = deployment.s3.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix=root, Delimiter="/"
    )
    for page in pages:
        for folder in page.get("CommonPrefixes", []):
            yield folder["Prefix"]


def _delete_rows(deployment: Deployment, workload: ids.WorkloadName, done: WoundDown) -> None:
    """Delete all items of a workload's tenants. It reads both tables from end to end."""
    for table in (deployment.requests, deployment.models):
        for key in table.keys_where(Attr(PARTITION).contains(f"#{workload}")):
            if table_keys.is_of_a_tenant(key, workload):
                table.delete(key)
                done.rows += 1
