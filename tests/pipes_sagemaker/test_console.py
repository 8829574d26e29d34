"""The page of a job in AWS's console. test_client.py checks that a local cloud has none."""

import boto3
import pytest

from pipes_sagemaker.client import PipesSageMakerTrainingJobClient
from pipes_sagemaker.readers import PipesSageMakerMessageReader


@pytest.mark.parametrize(
    ("region", "console"),
    [
        ("eu-west-1", "eu-west-1.console.aws.amazon.com"),
        ("us-gov-west-1", "us-gov-west-1.console.amazonaws-us-gov.com"),
        ("cn-north-1", "cn-north-1.console.amazonaws.cn"),
    ],
)
def test_on_aws_a_job_has_a_page(
    region: str, console: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    client = PipesSageMakerTrainingJobClient(
        client=boto3.client("sagemaker"), message_reader=PipesSageMakerMessageReader(bucket="b")
    )
    page = client._console_url("job-1")
    assert page == f"https://{console}/sagemaker/home?region={region}#/jobs/job-1"
