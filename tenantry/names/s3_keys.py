"""Every key of S3, built from validated ids. Nothing else formats one.

In keys that a tenant's session may touch, the tenant comes directly after a fixed prefix. IAM's
``*`` spans slashes: a policy with a wildcard before the tenant would take any other part of a key
for the tenant (docs/decisions/0011-the-tenant-leads-its-keys.md).

A parameter ``tenant`` may name one of the tenant's models (``ModelId``). Its name stands in the key
of what a version or a question does not tell apart
(docs/decisions/0029-several-models-of-a-tenant.md).
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Final

from contracts.split_files import DATA_FILE, TENANTS_FILE
from contracts.tasks import ARCHIVE_SUFFIX
from tenantry.names.ids import (
    MANIFEST,
    BatchName,
    FileName,
    InvalidIdError,
    ModelId,
    PackId,
    QuestionId,
    TenantId,
    UploadId,
    Version,
    WorkloadName,
    batch_name,
    name_in_keys,
    question_id,
    tenant_id,
    tenant_of,
    upload_id,
    version_name,
    workload_name,
)
from tenantry.names.sagemaker_names import target_model

_ASYNC_INPUT_END: Final = ".input"


UPLOADS_ROOT: Final = "uploads/"
"""Above all uploads of all tenants."""


def tenant_uploads_prefix(workload: WorkloadName, tenant: ModelId) -> str:
    """Above all that a tenant uploaded for a workload."""
    return f"{UPLOADS_ROOT}{tenant_of(tenant)}/{workload}/"


def upload_prefix(workload: WorkloadName, tenant: ModelId, upload: UploadId) -> str:
    """Where an upload's files lie."""
    return f"{tenant_uploads_prefix(workload, tenant)}{upload}/"


def upload_file(workload: WorkloadName, tenant: ModelId, upload: UploadId, name: FileName) -> str:
    """One file of an upload."""
    return f"{upload_prefix(workload, tenant, upload)}{name}"


def upload_manifest(workload: WorkloadName, tenant: ModelId, upload: UploadId) -> str:
    """The manifest, written last."""
    return f"{upload_prefix(workload, tenant, upload)}{MANIFEST}"


def parse_manifest_key(key: str) -> tuple[WorkloadName, TenantId, UploadId]:
    """The ids in a manifest's key. Raises ``InvalidIdError`` when it is not one."""
    parts = key.split("/")
    if len(parts) != 5 or f"{parts[0]}/" != UPLOADS_ROOT or parts[4] != MANIFEST:
        raise InvalidIdError(
            f"{key[:200]!r} is not {UPLOADS_ROOT}{{tenant}}/{{workload}}/{{upload}}/{MANIFEST}"
        )
    return workload_name(parts[2]), tenant_id(parts[1]), upload_id(parts[3])


TENANT_ROOTS: Final = ("predictions/", "archive/", "cache/", "async/")
"""The roots in the data bucket above ``{tenant}/{workload}/``. In the uploads bucket the root is
``UPLOADS_ROOT``."""

WORKLOAD_ROOTS: Final = (
    "training-data/",
    "jobs/",
    "checkpoints/",
    "artifacts/",
    "batches/",
    "async-failures/",
    "demand/",
    "tables/",
    "splits/",
)
"""The roots in the data bucket above ``{workload}/``."""


def training_data_folder(tenant: ModelId, version: Version) -> str:
    """A tenant's folder below the workload's training data; also its folder in the job's
    channel."""
    return f"{tenant_of(tenant)}/{version}"


TRAINING_DATA_ROOT: Final = "training-data/"
"""Above all training data of all workloads."""


def training_data_root(workload: WorkloadName) -> str:
    """Above all training data of a workload."""
    return f"{TRAINING_DATA_ROOT}{workload}/"


def training_data_file(
    workload: WorkloadName, tenant: ModelId, version: Version, name: FileName
) -> str:
    """One prepared file."""
    return f"{training_data_root(workload)}{training_data_folder(tenant, version)}/{name}"


def job_file(workload: WorkloadName, pack: PackId, name: FileName) -> str:
    """An input document of a packed training job."""
    return f"jobs/{workload}/{pack}/{name}"


def job_data_prefix(workload: WorkloadName, pack: PackId) -> str:
    """Above the archives of the tasks' prepared files, where instances share them out by key."""
    return f"jobs/{workload}/{pack}/data/"


def job_data_archive(
    workload: WorkloadName, pack: PackId, tenant: ModelId, version: Version
) -> str:
    """The archive of one task's prepared files."""
    folder = training_data_folder(tenant, version)
    return f"{job_data_prefix(workload, pack)}{folder}{ARCHIVE_SUFFIX}"


def job_output_prefix(workload: WorkloadName, pack: PackId) -> str:
    """Where SageMaker puts the job's own ``model.tar.gz``."""
    return f"jobs/{workload}/{pack}/output"


def messages_prefix(workload: WorkloadName, pack: PackId) -> str:
    """Above the Pipes messages of a pack's jobs."""
    return f"pipes/{workload}/{pack}"


def checkpoint_prefix(workload: WorkloadName, pack: PackId) -> str:
    """The prefix that a packed job's checkpoint folder is synced to."""
    return f"checkpoints/{workload}/{pack}"


def checkpoint_archive(
    workload: WorkloadName, pack: PackId, tenant: ModelId, version: Version
) -> str:
    """The archive a task of the job left."""
    return f"{checkpoint_prefix(workload, pack)}/{tenant_of(tenant)}/{version}.tar.gz"


def artifact(workload: WorkloadName, tenant: ModelId, version: Version) -> str:
    """A version's archive, kept for good: it outlives jobs and endpoints."""
    return f"artifacts/{workload}/{tenant_of(tenant)}/{version}.tar.gz"


def outcome_beside(archive: str) -> str:
    """The outcome that a task left beside its archive."""
    return f"{archive.removesuffix('.tar.gz')}.json"


def files_beside(archive: str) -> str:
    """The prefix of the other files that a task left beside its archive."""
    return f"{archive.removesuffix('.tar.gz')}/"


def endpoint_models_prefix(endpoint: str) -> str:
    """The prefix a multi-model endpoint serves."""
    return f"endpoints/{endpoint}/models/"


def endpoint_model(endpoint: str, tenant: ModelId, version: Version) -> str:
    """An archive under the endpoint's prefix."""
    return f"{endpoint_models_prefix(endpoint)}{target_model(tenant, version)}"


def batch_prefix(workload: WorkloadName, day: date, batch: str) -> str:
    """Everything one batch transform reads and writes."""
    return f"{batches_of_day(workload, day)}{version_name(batch)}/"


def batch_input(workload: WorkloadName, day: date, batch: str, tenant: ModelId) -> str:
    """A tenant's records in a batch."""
    return f"{batch_prefix(workload, day, batch)}input/{tenant}.jsonl"


def batch_model(
    workload: WorkloadName, day: date, batch: str, tenant: ModelId, version: Version
) -> str:
    """A tenant's archive in a batch."""
    return f"{batch_prefix(workload, day, batch)}models/{target_model(tenant, version)}"


def batch_output(workload: WorkloadName, day: date, batch: str, tenant: ModelId) -> str:
    """The transform job's answer for a tenant: the input's name and ``.out``, as SageMaker names
    it."""
    return f"{batch_prefix(workload, day, batch)}output/{tenant}.jsonl.out"


def batches_of_day(workload: WorkloadName, day: date) -> str:
    """Above all batches of a day."""
    return f"batches/{workload}/{day.isoformat()}/"


def tenant_of_batch_output(key: str) -> str | None:
    """The id of the model whose answer a key of a batch holds; None for a key of anything else."""
    folder, _, name = key.rpartition("/")
    if not folder.endswith("/output") or not name.endswith(".jsonl.out"):
        return None
    return name.removesuffix(".jsonl.out")


def predictions_prefix(workload: WorkloadName, tenant: ModelId) -> str:
    """Above the batch predictions of a tenant's model."""
    return f"predictions/{tenant_of(tenant)}/{name_in_keys(workload, tenant)}/"


def first_result(workload: WorkloadName, tenant: ModelId, version: Version, name: FileName) -> str:
    """A file that a version's training made with it, for its tenant."""
    return f"{predictions_prefix(workload, tenant)}first/{version}/{name}"


def first_results_index(workload: WorkloadName, tenant: ModelId, version: Version) -> str:
    """The list of those files."""
    return f"{predictions_prefix(workload, tenant)}first/{version}.json"


def prediction(workload: WorkloadName, tenant: ModelId, cadence: BatchName, day: date) -> str:
    """A tenant's prediction by one of the workload's batches, ``cadence``, of a day. By name they
    are in the order of their days."""
    return f"{predictions_prefix(workload, tenant)}{cadence}/{day.isoformat()}.jsonl"


def parse_prediction(workload: WorkloadName, tenant: ModelId, key: str) -> tuple[BatchName, date]:
    """The batch and the day in the key of a tenant's batch prediction. Raises ``InvalidIdError``
    when it is not one."""
    said = key.removeprefix(predictions_prefix(workload, tenant)).removesuffix(".jsonl")
    cadence, _, day = said.partition("/")
    try:
        found = batch_name(cadence), date.fromisoformat(day)
    except ValueError:
        found = BatchName("-"), date.min
    if key != prediction(workload, tenant, *found):
        raise InvalidIdError(f"{key[:200]!r} is not the key of a prediction of {tenant}")
    return found


def archived_request(workload: WorkloadName, tenant: ModelId, at: datetime, name: str) -> str:
    """An answered request, with its response."""
    prefix = archived_requests_prefix(workload, tenant, at.astimezone(UTC).date())
    return f"{prefix}{version_name(name)}.json"


def archived_trial_request(
    workload: WorkloadName, tenant: ModelId, at: datetime, name: str, outcome: str
) -> str:
    """A request during a trial: answered, or one that no version answered. ``outcome`` stands in
    the key, so that a trial is judged by keys alone (``tenantry.trials.exchanges``)."""
    prefix = archived_requests_prefix(workload, tenant, at.astimezone(UTC).date())
    return f"{prefix}{version_name(name)}_{outcome}.json"


def archived_requests_prefix(workload: WorkloadName, tenant: ModelId, day: date) -> str:
    """Above a tenant's answered requests of a day (UTC); their names begin with the time as
    ``HHMMSS``."""
    model = name_in_keys(workload, tenant)
    return f"archive/{tenant_of(tenant)}/{model}/{day.isoformat()}/"


def cached_answer(
    workload: WorkloadName, tenant: ModelId, version: Version, question: QuestionId
) -> str:
    """A kept answer of a version of a tenant's model."""
    return f"cache/{tenant_of(tenant)}/{workload}/{version}_{question}"


ASYNC_ROOT: Final = "async"
"""Above all asynchronous questions of all tenants: the ``S3OutputPath`` of a shared tier's
endpoint."""


def async_extension(workload: WorkloadName, tenant: ModelId) -> str:
    """A shared tier's ``S3OutputPathExtension``: the path from ``ASYNC_ROOT`` to a tenant's
    answers."""
    return f"{tenant_of(tenant)}/{workload}"


def async_tenant_prefix(workload: WorkloadName, tenant: ModelId) -> str:
    """Above a tenant's asynchronous questions: the ``S3OutputPath`` and ``S3FailurePath`` of a silo
    tenant's endpoint."""
    return f"{ASYNC_ROOT}/{async_extension(workload, tenant)}"


def async_failures_prefix(workload: WorkloadName) -> str:
    """The prefix of a shared tier's failures: its endpoint's ``S3FailurePath``. No tenant's session
    reaches it."""
    return f"async-failures/{workload}"


def async_input(workload: WorkloadName, tenant: ModelId, question: QuestionId) -> str:
    """A tenant's asynchronous question."""
    return f"{async_tenant_prefix(workload, tenant)}/{question}{_ASYNC_INPUT_END}"


def parse_async_input(key: str) -> tuple[WorkloadName, TenantId, QuestionId]:
    """The ids in the key of an asynchronous question. Raises ``InvalidIdError`` when it is not
    one."""
    parts = key.split("/")
    if len(parts) != 4 or parts[0] != ASYNC_ROOT or not parts[3].endswith(_ASYNC_INPUT_END):
        raise InvalidIdError(f"{key[:200]!r} is not the key of an asynchronous question")
    question = parts[3].removesuffix(_ASYNC_INPUT_END)
    return workload_name(parts[2]), tenant_id(parts[1]), question_id(question)


def async_submitted(workload: WorkloadName, tenant: ModelId, question: QuestionId) -> str:
    """The record of a submitted question: the moment, and the key of its answer."""
    return f"{async_tenant_prefix(workload, tenant)}/{question}.submitted"


def async_output(workload: WorkloadName, tenant: ModelId, question: QuestionId) -> str:
    """The answer; its last part is the request's ``Filename``."""
    return f"{async_tenant_prefix(workload, tenant)}/{question}"


def async_failure(
    workload: WorkloadName, tenant: ModelId, question: QuestionId, attempt: int
) -> str:
    """Why an attempt at the question failed, copied to the tenant from where SageMaker put it."""
    return f"{async_tenant_prefix(workload, tenant)}/{question}.failure-{attempt:d}"


def demand_file(workload: WorkloadName, endpoint: str, day: date) -> str:
    """The requests of each hour of a day that reached an endpoint."""
    return f"demand/{workload}/{endpoint}/{day.isoformat()}.parquet"


def asked_file(workload: WorkloadName, day: date) -> str:
    """The requests of each tenant and hour of a day."""
    return f"demand/{workload}/by-tenant/{day.isoformat()}.parquet"


def demand_forecast(workload: WorkloadName, endpoint: str) -> str:
    """The latest forecast of an endpoint's requests."""
    return f"demand/{workload}/{endpoint}/forecast.json"


def base_prefix(model: str, version: str) -> str:
    """A base that was copied from SageMaker JumpStart, by its model's id and version there."""
    return f"bases/{FileName(model)}/{FileName(version)}"


TABLES_ROOT: Final = "tables/"
"""Above all tables of results, which Athena reads."""

QUERY_RESULTS_PREFIX: Final = f"{TABLES_ROOT}_results/"
"""Where Athena puts the results of queries. No workload's name begins so."""


def result_table_root(workload: WorkloadName, cadence: BatchName) -> str:
    """Above the days of the table of one of the workload's batches, ``cadence``."""
    return f"{TABLES_ROOT}{workload}/{cadence}/"


def result_table_day_prefix(workload: WorkloadName, cadence: BatchName, day: date) -> str:
    """Above a day's files of a batch's table: a Hive partition."""
    return f"{result_table_root(workload, cadence)}day={day.isoformat()}/"


def result_table_file(workload: WorkloadName, cadence: BatchName, day: date, job: str) -> str:
    """The rows of the tenants that one transform job predicted for."""
    return f"{result_table_day_prefix(workload, cadence, day)}{version_name(job)}.parquet"


def _split_prefix(workload: WorkloadName, split: str) -> str:
    return f"splits/{workload}/{version_name(split)}/"


def split_input(workload: WorkloadName, split: str, suffix: str) -> str:
    """The file of many customers that a processing job splits; ``suffix`` is ``.csv`` or
    ``.parquet``."""
    return f"{_split_prefix(workload, split)}input/{FileName(f'raw{suffix}')}"


def split_output_prefix(workload: WorkloadName, split: str) -> str:
    """Where the processing job leaves the folders of the tenants."""
    return f"{_split_prefix(workload, split)}output"


def split_index(workload: WorkloadName, split: str) -> str:
    """The list of the tenants that a processing job found."""
    return f"{split_output_prefix(workload, split)}/{TENANTS_FILE}"


def split_file(workload: WorkloadName, split: str, tenant: TenantId) -> str:
    """A tenant's rows of a file that a processing job split."""
    return f"{split_output_prefix(workload, split)}/{tenant}/{DATA_FILE}"
