"""What processing jobs, pipelines, and those who start them may do, and to what; and those who take
bases from JumpStart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from tests.isolation.template import ACCOUNT, REGION

PROCESSING_ROLE: Final[Mapping[str, str]] = {
    "s3:GetObject s3:PutObject": "splits",
    "s3:ListBucket": "list:splits",
}
PIPELINE_ROLE: Final[Mapping[str, str]] = {
    "sagemaker:AddTags sagemaker:CreateTrainingJob sagemaker:DescribeTrainingJob "
    "sagemaker:StopTrainingJob": "job-of-pipeline",
    "iam:PassRole": "hand:TrainingRole",
}
OPERATOR_JOBS: Final[Mapping[str, str]] = {
    "s3:GetObject": "splits jobs jumpstart",
    "s3:PutObject": "splits bases",
    "s3:AbortMultipartUpload": "bases",
    "s3:ListBucket": "list:bases list-jumpstart",
    "sagemaker:AddTags": "processing-job pipeline",
    "sagemaker:CreateProcessingJob sagemaker:DescribeProcessingJob": "processing-job",
    "sagemaker:CreatePipeline sagemaker:DescribePipelineExecution "
    "sagemaker:ListPipelineExecutions sagemaker:ListPipelineExecutionSteps "
    "sagemaker:StartPipelineExecution sagemaker:UpdatePipeline": "pipeline",
    "iam:PassRole": "hand:ProcessingRole hand:PipelineRole",
}


def job_targets() -> Iterator[tuple[str, str, str, dict[str, str | list[str]]]]:
    """Processing jobs, pipelines with their executions, and the jobs that pipelines start: label,
    whose, resource and context of each."""
    for kind in ("", "private-"):
        bucket = f"arn:aws:s3:::jumpstart-{kind}cache-prod-{REGION}"
        yield "jumpstart", "all", f"{bucket}/models_manifest.json", {}
        yield "list-jumpstart", "all", bucket, {"s3:prefix": "a-model/"}
        yield "foreign", "nobody", f"{bucket}-2/models_manifest.json", {}
        yield "foreign", "nobody", f"{bucket}-2", {"s3:prefix": "a-model/"}
    sagemaker = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}"
    yield "processing-job", "all", f"{sagemaker}:processing-job/tenantry-energy-x", {}
    yield "foreign", "nobody", f"{sagemaker}:processing-job/another-energy-x", {}
    for execution in ("", "/execution/0a1b2c"):
        yield "pipeline", "all", f"{sagemaker}:pipeline/tenantry-energy-x{execution}", {}
        yield "foreign", "nobody", f"{sagemaker}:pipeline/another-energy-x{execution}", {}
    yield "job-of-pipeline", "all", f"{sagemaker}:training-job/pipelines-0a-Train-1b", {}
