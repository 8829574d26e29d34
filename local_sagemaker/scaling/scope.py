"""What requests of Application Auto Scaling have in common: the resource they name, and pages."""

import re
from typing import Any, Final

from local_sagemaker.account.state import Document
from local_sagemaker.errors import ServiceError, not_emulated, validation

NAMESPACE: Final = "sagemaker"
INSTANCES: Final = "sagemaker:variant:DesiredInstanceCount"
PROVISIONED: Final = "sagemaker:variant:DesiredProvisionedConcurrency"
"""The dimension of serverless variants
(docs.aws.amazon.com/sagemaker/latest/dg/serverless-endpoints-autoscale.html)."""
CAPACITIES: Final = {
    INSTANCES: "desired instance count",
    PROVISIONED: "desired provisioned concurrency",
}
"""The dimensions, with the words for their capacity."""
TARGET: Final = "scalable-target"
"""The kind of a stored scalable target."""
_RESOURCE: Final = re.compile(r"endpoint/([A-Za-z0-9-]{1,63})/variant/([A-Za-z0-9-]{1,63})")
_PAGE: Final = 50


def resource_of(params: dict[str, Any]) -> str:
    """The target that a request names. Raises ValidationException where it is not a variant's."""
    check_scope(params)
    return str(params["ResourceId"])


def check_scope(params: dict[str, Any]) -> None:
    """Raises ValidationException for another service than SageMaker, or another dimension."""
    if params["ServiceNamespace"] != NAMESPACE:
        raise not_emulated(f"ServiceNamespace {params['ServiceNamespace']}")
    if params.get("ScalableDimension", INSTANCES) not in CAPACITIES:
        raise not_emulated(f"ScalableDimension {params['ScalableDimension']}")


def endpoint_and_variant(resource: str) -> tuple[str, str]:
    """The names in a resource's id. Raises ValidationException."""
    found = _RESOURCE.fullmatch(resource)
    if found is None:
        raise validation(
            f"Unsupported service namespace, resource type or scalable dimension: {resource!r} is "
            f"not endpoint/NAME/variant/NAME"
        )
    return found[1], found[2]


def capacity_of(variant: Document, dimension: str) -> int | None:
    """The capacity that a variant of an endpoint has in a dimension; None where it has none."""
    config = variant.get("ServerlessConfig")
    if config is None:
        return int(variant["DesiredInstanceCount"]) if dimension == INSTANCES else None
    return config.get("ProvisionedConcurrency") if dimension == PROVISIONED else None


def change_of(variant: str, dimension: str, capacity: int) -> Document:
    """The DesiredWeightAndCapacity that gives a variant this capacity."""
    if dimension == PROVISIONED:
        wanted: Document = {"ServerlessUpdateConfig": {"ProvisionedConcurrency": capacity}}
    else:
        wanted = {"DesiredInstanceCount": capacity}
    return {"VariantName": variant, **wanted}


def key_of(resource: str, name: str) -> str:
    """Where a target's scheduled action or policy of a name is kept."""
    return f"{resource}\n{name}"


def is_of(document: Document, params: dict[str, Any]) -> bool:
    """Whether a document is of the resource and the dimension that a Describe call names, if it
    names them."""
    check_scope(params)
    return all(
        params.get(name, document[name]) == document[name]
        for name in ("ResourceId", "ScalableDimension")
    )


def page_of(member: str, found: list[Document], params: dict[str, Any]) -> dict[str, Any]:
    """One page; the token is the place of the next entry."""
    check_scope(params)
    token = params.get("NextToken") or "0"
    if not re.fullmatch(r"\d{1,6}", token):
        raise ServiceError("InvalidNextTokenException", "The next token is not valid.")
    count = params.get("MaxResults", _PAGE)
    if not 1 <= count <= _PAGE:
        raise validation(f"MaxResults must be from 1 to {_PAGE}.")
    start = int(token)
    following = {"NextToken": str(start + count)} if len(found) > start + count else {}
    return {member: found[start : start + count], **following}
