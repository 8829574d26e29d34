"""The variants of an endpoint as DescribeEndpoint shows them.

Sources: docs.aws.amazon.com/sagemaker/latest/APIReference/API_ProductionVariantSummary.html and
…/API_PendingDeploymentSummary.html.
"""

from typing import Any

from local_sagemaker.account.state import Document
from local_sagemaker.endpoints.deployments import Deployment
from local_sagemaker.endpoints.fleet import Variant
from local_sagemaker.endpoints.models import ModelSpec
from local_sagemaker.endpoints.traffic import Fleet
from local_sagemaker.serverless.config import is_serverless
from local_sagemaker.serverless.variant import ServerlessVariant


def described_variants(endpoint: Document, fleet: Fleet, deployment: Deployment | None) -> Document:
    """ProductionVariants, ShadowProductionVariants and PendingDeploymentSummary.

    CurrentInstanceCount is the number of instances that are healthy now. While an update shifts
    traffic, CurrentWeight is the part of the weight that the fleet has; the fleet to come is in
    PendingDeploymentSummary.
    """
    described = _by_kind(
        [
            (one, _summary(one, fleet, endpoint["CreationTime"], _share(one, deployment)))
            for one in endpoint["Variants"]
        ]
    )
    if deployment is None:
        return described
    green = deployment.shift.green
    pending = _by_kind(
        [
            (
                one.document,
                _summary(
                    one.document, green, deployment.started, float(deployment.shift.share(one.name))
                )
                | {
                    **{
                        member: one.document["Config"][member]
                        for member in ("InstanceType",)
                        if member in one.document["Config"]
                    },
                    "VariantStatus": [deployment.status],
                },
            )
            for one in green.values()
        ]
    )
    summary = {"EndpointConfigName": deployment.config_name, "StartTime": deployment.started}
    return described | {"PendingDeploymentSummary": summary | pending}


def _share(document: Document, deployment: Deployment | None) -> float:
    if deployment is None or document.get("Shadow"):
        return 1.0
    return float(1 - deployment.shift.share(document["VariantName"]))


def _summary(document: Document, fleet: Fleet, resolved: float, share: float) -> dict[str, Any]:
    current = fleet.get(document["VariantName"])
    return {
        "VariantName": document["VariantName"],
        "DeployedImages": [
            {"SpecifiedImage": image, "ResolvedImage": image, "ResolutionTime": resolved}
            for image in ModelSpec.parse(document["Model"]).images
        ],
        "CurrentWeight": document["CurrentWeight"] * share,
        "DesiredWeight": document["CurrentWeight"],
        **_capacity(document, current),
    }


def _capacity(document: Document, current: Variant | None) -> Document:
    """The members of a variant's description that tell what it runs on."""
    if is_serverless([document]):
        config = {"DesiredServerlessConfig": document["ServerlessConfig"]}
        if isinstance(current, ServerlessVariant):
            config["CurrentServerlessConfig"] = current.config.document
        return config
    return {
        "CurrentInstanceCount": len(current.instances) if current else 0,
        "DesiredInstanceCount": document["DesiredInstanceCount"],
    }


def _by_kind(summaries: list[tuple[Document, dict[str, Any]]]) -> dict[str, Any]:
    shadows = [summary for document, summary in summaries if document.get("Shadow")]
    production = [summary for document, summary in summaries if not document.get("Shadow")]
    return {"ProductionVariants": production} | (
        {"ShadowProductionVariants": shadows} if shadows else {}
    )
