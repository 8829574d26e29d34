"""ServerlessConfig of a production variant, and what AWS excludes from serverless endpoints.

Sources: docs.aws.amazon.com/sagemaker/latest/APIReference/, the page
API_ProductionVariantServerlessConfig.html, and …/dg/serverless-endpoints.html ("Feature
exclusions"). AWS's pages do not have the words of most refusals.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from local_sagemaker.account.state import Document
from local_sagemaker.endpoints.models import ModelSpec
from local_sagemaker.errors import ServiceError, validation

MEMORY_SIZES_MB: Final = range(1024, 6144 + 1, 1024)
PAYLOAD_LIMIT_BYTES: Final = 4 * 1024 * 1024
"""The largest request and response (…/dg/serverless-endpoints-invoke.html: "4 MB")."""
HEALTH_TIMEOUT_SECONDS: Final = 180.0
"""The time for a successful /ping (…/dg/serverless-endpoints-invoke.html: "within 3 minutes")."""
IMAGE_LIMIT_BYTES: Final = 10 * 1024**3
"""The largest image (…/dg/serverless-endpoints.html: "10 GB")."""
DISK_LIMIT_BYTES: Final = 5 * 1024**3
"""The ephemeral storage of an environment (…/dg/serverless-endpoints.html: "5 GB")."""
ENDPOINT_LIMIT: Final = 50
"""Serverless endpoints in a Region (…/dg/serverless-endpoints.html)."""
_LARGE_REGIONS: Final = (
    *("us-east-1", "us-east-2", "us-west-2", "eu-central-1", "eu-west-1"),
    *("ap-southeast-1", "ap-southeast-2", "ap-northeast-1"),
)
"""Where the total concurrency of an account is 1000; it is 500 elsewhere (the same page)."""
_OF_INSTANCES: Final = (
    "InstanceType",
    "InitialInstanceCount",
    "VolumeSizeInGB",
    "RoutingConfig",
    "ModelDataDownloadTimeoutInSeconds",
    "ContainerStartupHealthCheckTimeoutInSeconds",
    "EnableSSMAccess",
    "InferenceAmiVersion",
)
_BYTES_PER_MB: Final = 1024 * 1024


@dataclass(frozen=True)
class ServerlessConfig:
    """The memory of each environment, the invocations at once, and the environments that are kept
    warm."""

    memory_mb: int
    max_concurrency: int
    provisioned: int = 0

    @classmethod
    def parse(cls, document: Document) -> "ServerlessConfig":
        """From a ProductionVariantServerlessConfig. Raises ValidationException."""
        config = cls(
            document["MemorySizeInMB"],
            document["MaxConcurrency"],
            document.get("ProvisionedConcurrency", 0),
        )
        if config.memory_mb not in MEMORY_SIZES_MB:
            raise validation(
                f"MemorySizeInMB {config.memory_mb} is not valid. Valid values are in 1 GB "
                f"increments: {', '.join(f'{size} MB' for size in MEMORY_SIZES_MB)}."
            )
        if config.provisioned > config.max_concurrency:
            raise validation(
                f"ProvisionedConcurrency {config.provisioned} must be less than or equal to "
                f"MaxConcurrency {config.max_concurrency}."
            )
        return config

    @property
    def document(self) -> Document:
        """As a ProductionVariantServerlessConfig."""
        found = {"MemorySizeInMB": self.memory_mb, "MaxConcurrency": self.max_concurrency}
        return found | ({"ProvisionedConcurrency": self.provisioned} if self.provisioned else {})

    @property
    def gigabytes(self) -> float:
        """The memory of an environment in GB of 1024 MB."""
        return self.memory_mb / 1024

    @property
    def memory_bytes(self) -> int:
        """The memory of an environment."""
        return self.memory_mb * _BYTES_PER_MB


def is_serverless(variants: Sequence[Document]) -> bool:
    """Whether an endpoint or a configuration has serverless variants."""
    return any("ServerlessConfig" in variant for variant in variants)


def check_variants(
    params: dict[str, Any], variants: Sequence[Document], models: Sequence[Document]
) -> None:
    """Refuse what AWS excludes from a serverless endpoint. Raises ValidationException.

    `params` are those of CreateEndpointConfig, `models` the variants' own.
    """
    if is_serverless(params.get("ShadowProductionVariants", [])):
        raise _excluded("Shadow variants are")
    if not is_serverless(variants):
        return
    if len(variants) > 1:
        raise _excluded("Multiple production variants are")
    (variant,) = variants
    ServerlessConfig.parse(variant["ServerlessConfig"])
    for member in _OF_INSTANCES:
        if variant.get(member):
            raise validation(f"{member} must not be specified together with ServerlessConfig.")
    for member, what in (
        ("AsyncInferenceConfig", "AsyncInferenceConfig is"),
        ("ShadowProductionVariants", "Shadow variants are"),
        ("DataCaptureConfig", "Data capture is"),
    ):
        if params.get(member):
            raise _excluded(what)
    for document in (params, *models):
        if document.get("VpcConfig"):
            raise _excluded("VPC configuration is")
        if document.get("EnableNetworkIsolation"):
            raise _excluded("Network isolation is")
    _check_model(models[0])


def _check_model(model: Document) -> None:
    spec = ModelSpec.parse(model)
    if len(spec.containers) > 1:
        what = "Multi-container endpoints are" if spec.direct else "Inference pipelines are"
        raise _excluded(what)
    if spec.multi_model:
        raise _excluded("Multi-Model Endpoints are")
    container = (model.get("Containers") or [model.get("PrimaryContainer")])[0]
    if container.get("ImageConfig", {}).get("RepositoryAccessMode") == "Vpc":
        raise _excluded("Private Docker registries are")


def check_account(
    region: str, name: str, others: Sequence[Document], variants: Sequence[Document]
) -> None:
    """Refuse an endpoint beyond the account's quotas. Raises ResourceLimitExceeded.

    `others` are the documents of the account's endpoints, `name` included. `variants` are those
    that the endpoint is to have, in an update also those that it has.
    """
    wanted = [one for one in variants if "ServerlessConfig" in one]
    if not wanted:
        return
    rest = [
        variant
        for endpoint in others
        if endpoint["EndpointName"] != name and endpoint["EndpointStatus"] != "Failed"
        for variant in endpoint["Variants"]
        if "ServerlessConfig" in variant
    ]
    if len(rest) + 1 > ENDPOINT_LIMIT:
        raise _limit("Maximum number of serverless endpoints", ENDPOINT_LIMIT, len(rest), 1)
    total = 1000 if region in _LARGE_REGIONS else 500
    used = sum(variant["ServerlessConfig"]["MaxConcurrency"] for variant in rest)
    more = max(variant["ServerlessConfig"]["MaxConcurrency"] for variant in wanted)
    if used + more > total:
        raise _limit("Maximum total concurrency of serverless endpoints", total, used, more)


def check_update(before: Sequence[Document], after: Sequence[Document]) -> None:
    """Refuse an update from instances to serverless. Raises ValidationException."""
    if is_serverless(after) and not is_serverless(before):
        raise validation("You cannot convert an instance-based endpoint to a serverless endpoint.")


def changed(known: Document, change: Document) -> Document:
    """A variant's ServerlessConfig after a ServerlessUpdateConfig. Raises ValidationException."""
    if "DesiredInstanceCount" in change:
        raise validation(
            f"DesiredInstanceCount is not valid for the serverless variant {known['VariantName']}."
        )
    config: Document = known["ServerlessConfig"] | change.get("ServerlessUpdateConfig", {})
    ServerlessConfig.parse(config)
    return config


def _excluded(what: str) -> ServiceError:
    return validation(f"{what} not supported for Serverless Inference.")


def _limit(quota: str, limit: int, used: int, wanted: int) -> ServiceError:
    return ServiceError(
        "ResourceLimitExceeded",
        f"The account-level service limit '{quota}' is {limit}, with current utilization of {used} "
        f"and a request delta of {wanted}. Please use AWS Service Quotas to request an increase "
        f"for this quota.",
    )
