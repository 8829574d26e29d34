"""Every key of the tables, built from validated ids. Nothing else formats one.

The tables' partition keys begin with the tenant, so that ``dynamodb:LeadingKeys`` can hold a
tenant's session to its own items.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tenantry.names.ids import (
    BatchName,
    ModelId,
    RequestId,
    Version,
    WorkloadName,
    name_in_keys,
    tenant_of,
)
from tenantry.names.purposes import Purpose


class ItemKey(NamedTuple):
    """Where an item lies in its table: the values of its partition key and its sort key."""

    partition: str
    sort: str


def table_partition(tenant: ModelId, workload: WorkloadName) -> str:
    """Partition key of the items of a tenant's model of a workload, in both tables."""
    return f"{tenant_of(tenant)}#{name_in_keys(workload, tenant)}"


def parse_table_partition(text: str) -> tuple[ModelId, WorkloadName]:
    """The model and the workload in such a key."""
    tenant, _, rest = text.partition("#")
    workload, dot, name = rest.partition("#")[0].partition(".")
    return ModelId(f"{tenant}{dot}{name}"), WorkloadName(workload)


def is_of_a_tenant(key: ItemKey, workload: WorkloadName) -> bool:
    """Whether an item, in either table, belongs to a tenant and this workload."""
    owner, its_workload = parse_table_partition(key.partition)
    return its_workload == workload and not owner.startswith("_")


# ---- the requests table --------------------------------------------------------------------------


def requests_partition(tenant: ModelId, workload: WorkloadName, purpose: Purpose) -> str:
    """Partition key of a model's requests.

    Those for inference come daily and make no model. They lie apart, so that they are not read
    where it is decided which model is made next.
    """
    of_model = table_partition(tenant, workload)
    return f"{of_model}#data" if purpose == "inference" else of_model


def request_item(
    tenant: ModelId, workload: WorkloadName, request: RequestId, purpose: Purpose = "training"
) -> ItemKey:
    """A request; ``purpose`` is that of its upload."""
    return ItemKey(requests_partition(tenant, workload, purpose), request)


def queue_key(workload: WorkloadName, status: str) -> str:
    """Partition key of the index of open requests."""
    return f"{workload}#{status}"


def history_partition(tenant: ModelId, workload: WorkloadName) -> str:
    """Partition key of the changes that moved out of a tenant's request rows."""
    return f"{table_partition(tenant, workload)}#history"


def history_sort_key(request: RequestId, since: str) -> str:
    """Sort key of a request's changes from a moment on; without a moment, the prefix of all of
    them."""
    return f"{request}#{since}"


def history_item(
    tenant: ModelId, workload: WorkloadName, request: RequestId, since: str
) -> ItemKey:
    """Changes of a request from a moment on."""
    return ItemKey(history_partition(tenant, workload), history_sort_key(request, since))


def daily_uploads_item(tenant: ModelId, workload: WorkloadName) -> ItemKey:
    """How many uploads a tenant handed in, for all of its models, on the last day on which it
    did."""
    return ItemKey(f"{table_partition(tenant_of(tenant), workload)}#uploads", "latest")


def workload_partition(workload: WorkloadName) -> str:
    """Partition key of items that belong to a workload rather than to a tenant."""
    return f"_workload#{workload}"


def controls_item(workload: WorkloadName) -> ItemKey:
    """An operator's settings for a workload."""
    return ItemKey(workload_partition(workload), "controls")


def unused_endpoints_item(workload: WorkloadName) -> ItemKey:
    """Since when each of a workload's endpoints has served nobody."""
    return ItemKey(workload_partition(workload), "unused_endpoints")


def trials_item(workload: WorkloadName) -> ItemKey:
    """Which tenants of a workload have a trial, or had one lately."""
    return ItemKey(workload_partition(workload), "trials")


def durations_item(workload: WorkloadName) -> ItemKey:
    """How long a workload's tasks take."""
    return ItemKey(workload_partition(workload), "durations")


ACCOUNT_PARTITION: Final = "_account"
"""Partition key of items that all workloads share; no tenant's id begins with ``_``."""

TRAINING_JOBS_ITEM: Final = ItemKey(ACCOUNT_PARTITION, "training_jobs")
"""The training jobs in progress."""

WORKLOADS_ITEM: Final = ItemKey(ACCOUNT_PARTITION, "workloads")
"""The workloads that are offered, or were."""

OPERATOR_EVENTS: Final = "operator_event#"
"""The prefix of the sort keys of operators' events, below ``ACCOUNT_PARTITION``."""


def operator_event_item(moment: str, digest: str) -> ItemKey:
    """An operator's action at a moment; sort keys are in the order of time."""
    return ItemKey(ACCOUNT_PARTITION, f"{OPERATOR_EVENTS}{moment}#{digest}")


def lease_item(what: str) -> ItemKey:
    """Which process may change a resource, and until when."""
    return ItemKey(ACCOUNT_PARTITION, f"lease#{what}")


def request_budget_item(operation: str) -> ItemKey:
    """The budget of calls of an AWS operation, of which an account may make few."""
    return ItemKey(ACCOUNT_PARTITION, operation)


# ---- the models table ----------------------------------------------------------------------------

VERSIONS: Final = "version#"
"""The prefix of the sort keys of a tenant's versions."""


def version_item(tenant: ModelId, workload: WorkloadName, version: Version) -> ItemKey:
    """A version of a tenant's model."""
    return ItemKey(table_partition(tenant, workload), f"{VERSIONS}{version}")


def champion_item(tenant: ModelId, workload: WorkloadName) -> ItemKey:
    """The pointer to the version a tenant's model is served by."""
    return ItemKey(table_partition(tenant, workload), "champion")


def current_data_item(tenant: ModelId, workload: WorkloadName) -> ItemKey:
    """The pointer to the newest prepared data of a tenant's model."""
    return ItemKey(table_partition(tenant, workload), "data")


def last_prediction_item(tenant: ModelId, workload: WorkloadName, cadence: BatchName) -> ItemKey:
    """What the last prediction of a model by a batch was made of."""
    return ItemKey(table_partition(tenant, workload), f"prediction#{cadence}")


def tenant_item(tenant: ModelId, workload: WorkloadName) -> ItemKey:
    """A tenant's own settings, for all of its models."""
    return ItemKey(table_partition(tenant_of(tenant), workload), "tenant")


def named_models_item(tenant: ModelId, workload: WorkloadName) -> ItemKey:
    """The names of a tenant's models beside its default one."""
    return ItemKey(table_partition(tenant_of(tenant), workload), "named_models")
