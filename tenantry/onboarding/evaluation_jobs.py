"""A version is evaluated on newer data by a SageMaker Processing job, where the data are too large
for the process that asks. The job loads the version's archive in the workload's own container, and
asks it there: no endpoint is involved (``containers.runtime.process``)."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from contracts.documents import to_bytes
from contracts.errors import MalformedDocumentError
from contracts.evaluations import (
    DATA,
    EVALUATION,
    EVALUATION_FILE,
    MAX_BYTES,
    MODEL,
    MODEL_FILE,
    SCORE_FILE,
    Evaluation,
    parse_score,
)
from contracts.variables import PROCESS
from tenantry.aws import objects
from tenantry.aws.processing_jobs import ProcessingFailedError, result_of_job
from tenantry.aws.silo_roles import ensure_silo_role, tenant_tags
from tenantry.models.registry import ModelVersion
from tenantry.names import ids, s3_keys, sagemaker_names
from tenantry.uploads.training_data import TrainingData
from tenantry.workloads.drift import Drift, EvaluationJob
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import CreateProcessingJobRequestTypeDef

    from tenantry.aws.deployment import Deployment

_INPUT, _OUTPUT = "/opt/ml/processing/input", "/opt/ml/processing/output"
_ARCHIVE: Final = ids.file_name(MODEL_FILE)
_INSTRUCTIONS: Final = ids.file_name(EVALUATION_FILE)


def score_by_job(
    deployment: Deployment,
    workload: Workload,
    drift: Drift,
    job: EvaluationJob,
    model: ModelVersion,
    data: TrainingData,
    *,
    wait_seconds: float | None,
) -> dict[str, Any] | None:
    """The score of a version on newer data, as the family's module tells it; None where it finds
    too few.

    The job's name is that of version, data, module and image: a repeated call adopts the job.

    Args:
        deployment: buckets, roles and clients.
        workload: whose container does it.
        drift: its section, which names the module.
        job: the job's machine.
        model: the version.
        data: prepared data of its tenant, newer than the version's.
        wait_seconds: how long to wait for the job; None waits for its end.

    Raises:
        ProcessingFailedError: the job failed; the message has its own words.
        StillProcessingError: it goes on after ``wait_seconds``.
        objects.ObjectMissingError: the version's archive is gone.
    """
    image = deployment.image(workload.container, workload.image_tag)
    alone = model.tenant if model.tier == "silo" else None
    said = ["evaluation", model.tenant, model.version, data.version, drift.module, image]
    # A pack's id: the silo tenant's role reaches what lies under it, and no other silo tenant's.
    which = ids.pack_id_of(said, alone)

    def request(name: str) -> CreateProcessingJobRequestTypeDef:
        s3, bucket = deployment.s3, deployment.data_bucket
        objects.copy(s3, bucket, model.archive, s3_keys.job_file(model.workload, which, _ARCHIVE))
        key = s3_keys.job_file(model.workload, which, _INSTRUCTIONS)
        objects.write_bytes(
            s3, bucket, key, to_bytes(Evaluation(drift.module, model.card).document())
        )
        return evaluation_request(deployment, workload, job, model, data, which, name)

    def read() -> dict[str, Any] | None:
        prefix = s3_keys.job_output_prefix(model.workload, which)
        content = objects.read_bytes(
            deployment.s3, deployment.data_bucket, f"{prefix}/{SCORE_FILE}", MAX_BYTES
        )
        try:
            return parse_score(content)
        except MalformedDocumentError as error:
            raise ProcessingFailedError(f"the score cannot be read: {error}") from error

    return result_of_job(
        deployment,
        partial(sagemaker_names.processing_job_name, deployment.prefix, model.workload, str(which)),
        request,
        read,
        tell=lambda _: None,
        deadline=None if wait_seconds is None else time.monotonic() + wait_seconds,
    )


def evaluation_request(
    deployment: Deployment,
    workload: Workload,
    job: EvaluationJob,
    model: ModelVersion,
    data: TrainingData,
    which: ids.PackId,
    name: str,
) -> CreateProcessingJobRequestTypeDef:
    """The request for the job. It runs under the role of the tier's training jobs, which reads the
    same data; that of a silo tenant is its own."""
    bucket, silo = f"s3://{deployment.data_bucket}", model.tier == "silo"
    tenant = ids.tenant_of(model.tenant)
    sources = {
        DATA: f"{s3_keys.training_data_root(model.workload)}"
        f"{s3_keys.training_data_folder(model.tenant, data.version)}/",
        MODEL: s3_keys.job_file(model.workload, which, _ARCHIVE),
        EVALUATION: s3_keys.job_file(model.workload, which, _INSTRUCTIONS),
    }
    role = (
        ensure_silo_role(deployment, model.workload, tenant).arn
        if silo
        else deployment.training_role
    )
    request: dict[str, Any] = {
        "ProcessingJobName": name,
        "AppSpecification": {"ImageUri": deployment.image(workload.container, workload.image_tag)},
        "RoleArn": role,
        "Environment": {PROCESS: "evaluate"},
        "ProcessingInputs": [
            {
                "InputName": source,
                "S3Input": {
                    "S3Uri": f"{bucket}/{key}",
                    "LocalPath": f"{_INPUT}/{source}",
                    "S3DataType": "S3Prefix",
                    "S3InputMode": "File",
                },
            }
            for source, key in sources.items()
        ],
        "ProcessingOutputConfig": {
            "Outputs": [
                {
                    "OutputName": "score",
                    "S3Output": {
                        "S3Uri": f"{bucket}/{s3_keys.job_output_prefix(model.workload, which)}",
                        "LocalPath": _OUTPUT,
                        "S3UploadMode": "EndOfJob",
                    },
                }
            ]
        },
        "ProcessingResources": {
            "ClusterConfig": {
                "InstanceType": job.instance_type,
                "InstanceCount": 1,
                "VolumeSizeInGB": job.volume_gigabytes,
            }
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": job.max_seconds},
        "Tags": [
            {"Key": "tenantry:workload", "Value": workload.name},
            *(tenant_tags(tenant) if silo else []),
        ],
    }
    return request  # type: ignore[return-value]  # built as a plain dict; the client validates it
