"""The pages that show a deployment's resources."""

from __future__ import annotations

from dataclasses import replace

import boto3
import pytest

from tenantry.aws.deployment import Deployment


@pytest.mark.parametrize(
    ("region", "console"),
    [
        ("eu-west-1", "eu-west-1.console.aws.amazon.com"),
        ("us-gov-west-1", "us-gov-west-1.console.amazonaws-us-gov.com"),
        ("cn-north-1", "cn-north-1.console.amazonaws.cn"),
    ],
)
def test_aws_has_a_page_of_an_endpoint_and_a_local_cloud_has_none(
    region: str, console: str, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert deployment.console_url("endpoints", "tenantry-energy") is None
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    on_aws = replace(deployment, session=boto3.Session(region_name=region))
    assert on_aws.console_url("endpoints", "tenantry-energy") == (
        f"https://{console}/sagemaker/home?region={region}#/endpoints/tenantry-energy"
    )
