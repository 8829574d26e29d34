"""Endpoint configurations: CreateEndpointConfig, DescribeEndpointConfig, ListEndpointConfigs,
DeleteEndpointConfig.

Source: docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateEndpointConfig.html. Instances
that answer in real time or asynchronously are emulated, and serverless and shadow variants. Data
capture and explainers are refused.
"""

import re
from typing import Any

from local_sagemaker.account.cloud import Cloud, Operation, page
from local_sagemaker.account.state import Document
from local_sagemaker.account.storage import DataError, S3Location
from local_sagemaker.endpoints.models import Models, ModelSpec
from local_sagemaker.errors import not_emulated, not_found, validation
from local_sagemaker.serverless.config import check_variants

KIND = "endpoint-config"
_OF_INSTANCES = ("InstanceType", "InitialInstanceCount")
_GPU_INSTANCE = re.compile(r"ml\.(?:gr?|p)\d")


class EndpointConfigs:
    """All endpoint configurations of the account."""

    def __init__(self, cloud: Cloud, models: Models) -> None:
        self._cloud = cloud
        self._models = models
        self.operations: dict[str, Operation] = {
            "CreateEndpointConfig": self.create,
            "DescribeEndpointConfig": self.describe,
            "ListEndpointConfigs": self.list_page,
            "DeleteEndpointConfig": self.delete,
        }

    def get(self, name: str) -> Document:
        """The configuration, or ValidationException as AWS words it."""
        config = self._cloud.store.get(KIND, name)
        if config is None:
            raise not_found(f'endpoint configuration "{self._cloud.arn(KIND, name)}"')
        return config

    async def create(self, params: dict[str, Any]) -> dict[str, Any]:
        """CreateEndpointConfig."""
        name = params["EndpointConfigName"]
        arn = self._cloud.arn(KIND, name)
        if self._cloud.taken(KIND, name):
            raise validation(f'Cannot create already existing endpoint configuration "{arn}".')
        variants = [_variant(variant) for variant in params["ProductionVariants"]]
        shadows = [_variant(variant) for variant in params.get("ShadowProductionVariants", [])]
        everyone = [*variants, *shadows]
        if len({variant["VariantName"] for variant in everyone}) != len(everyone):
            raise validation(
                "The production variants of an endpoint configuration must have different names"
            )
        models = [self._models.get(variant["ModelName"]) for variant in everyone]
        for variant, model in zip(everyone, models, strict=True):
            _check_instance_type(variant.get("InstanceType", ""), ModelSpec.parse(model))
        check_variants(params, variants, models)
        if shadows:
            _check_shadows(params, [ModelSpec.parse(model) for model in models])
        if "AsyncInferenceConfig" in params:
            _check_asynchronous(params["AsyncInferenceConfig"], models)
        document = {key: value for key, value in params.items() if key != "Tags"} | {
            "ProductionVariants": variants
        }
        if shadows:
            document["ShadowProductionVariants"] = shadows
        document |= {"EndpointConfigArn": arn, "CreationTime": self._cloud.clock.now()}
        self._cloud.store.put(KIND, name, document)
        self._cloud.put_tags(arn, params.get("Tags"))
        return {"EndpointConfigArn": arn}

    async def describe(self, params: dict[str, Any]) -> dict[str, Any]:
        """DescribeEndpointConfig."""
        return self.get(params["EndpointConfigName"])

    async def list_page(self, params: dict[str, Any]) -> dict[str, Any]:
        """ListEndpointConfigs."""
        configs, token = page(self._cloud.store.all(KIND), params)
        return {"EndpointConfigs": configs, "NextToken": token}

    async def delete(self, params: dict[str, Any]) -> dict[str, Any]:
        """DeleteEndpointConfig; endpoints created from it keep running."""
        config = self.get(params["EndpointConfigName"])
        self._cloud.store.delete(KIND, params["EndpointConfigName"])
        self._cloud.store.delete("tags", config["EndpointConfigArn"])
        return {}


def _variant(variant: Document) -> Document:
    of_instances = () if variant.get("ServerlessConfig") else _OF_INSTANCES
    for member in ("ModelName", *of_instances):
        if not variant.get(member):
            raise validation(f"ProductionVariant {variant['VariantName']}: {member} is required")
    return {"InitialVariantWeight": 1.0, **variant}


def _check_instance_type(instance_type: str, spec: ModelSpec) -> None:
    """Refuse GPUs for direct invocation ("Model hosting patterns in Amazon SageMaker, Part 1",
    aws.amazon.com/blogs/machine-learning: "GPU inference is not supported due to resource
    contention")."""
    if spec.direct and _GPU_INSTANCE.match(instance_type):
        raise validation(
            f"GPU inference is not supported for multi-container endpoints with direct invocation: "
            f"{instance_type}"
        )


def _check_shadows(params: dict[str, Any], specs: list[ModelSpec]) -> None:
    """Refuse what has no shadow variant
    (docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateEndpointConfig.html)."""
    if len(params["ShadowProductionVariants"]) > 1 or len(params["ProductionVariants"]) > 1:
        raise validation(
            "If you use ShadowProductionVariants, you can only specify one variant for "
            "ProductionVariants and one variant for ShadowProductionVariants."
        )
    if "AsyncInferenceConfig" in params:
        raise validation(
            "Shadow production variants are not supported when specifying an AsyncInferenceConfig."
        )
    if any(spec.multi_model or spec.direct for spec in specs):
        raise not_emulated(
            "ShadowProductionVariants with multi-model containers or direct invocation"
        )


def _check_asynchronous(config: Document, models: list[Document]) -> None:
    """Refuse combinations that an AsyncInferenceConfig does not allow, because InvokeEndpointAsync
    has no member that chooses a variant, a container or a model.

    The words are those of AWS's refusal of Marketplace images.
    """
    if len(models) != 1:
        raise validation(
            "Multiple production variants are not supported when specifying an "
            "AsyncInferenceConfig."
        )
    spec = ModelSpec.parse(models[0])
    if spec.direct:
        raise validation(
            "Models with direct invocation are not supported when specifying an "
            "AsyncInferenceConfig."
        )
    if spec.multi_model:
        raise validation(
            "Multi-model containers are not supported when specifying an AsyncInferenceConfig."
        )
    for member in ("S3OutputPath", "S3FailurePath"):
        if path := config["OutputConfig"].get(member):
            try:
                S3Location.parse(path)
            except DataError as error:
                raise validation(f"AsyncInferenceConfig.OutputConfig.{member}: {error}") from error
