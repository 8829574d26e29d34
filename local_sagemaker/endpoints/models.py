"""Models: CreateModel, DescribeModel, ListModels, DeleteModel, and the specification of a model's
containers.

Sources: docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateModel.html,
…/API_ContainerDefinition.html and …/dg/multi-container-create.html.
"""

import asyncio
import re
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from local_sagemaker.account.cloud import Cloud, Operation, page
from local_sagemaker.account.state import Document
from local_sagemaker.account.storage import DataError, S3Location
from local_sagemaker.errors import not_emulated, not_found, validation

KIND = "model"
PRIMARY = "primary"
"""The name of a model's only container in AWS's messages."""
_DEFAULT_WORKERS = 4
_ENVIRONMENT_LIMIT_BYTES = 32 * 1024
"""All keys and values of all containers of a model (API_ContainerDefinition.html)."""


@dataclass(frozen=True)
class ContainerSpec:
    """The specification that starts one container of a model.

    `hostname` names it among the model's containers. `data` is the archive, object or prefix of the
    model, or the prefix of all models of a multi-model container; `compressed` says whether it is a
    tar.gz; `cached` is False where ModelCacheSetting is Disabled.
    """

    hostname: str
    image: str
    environment: dict[str, str]
    multi_model: bool
    data: S3Location | None
    compressed: bool
    cached: bool

    @classmethod
    def parse(cls, hostname: str, container: Document) -> "ContainerSpec":
        """From a ContainerDefinition. Raises ValidationException for a container that cannot
        run."""
        if not container.get("Image"):
            raise validation("ContainerDefinition.Image is required")
        multi_model = container.get("Mode") == "MultiModel"
        try:
            data, compressed = _model_data(container, multi_model)
        except DataError as error:
            raise validation(str(error)) from error
        if multi_model and data is None:
            raise validation("A multi-model container needs ModelDataUrl, the prefix of its models")
        cache = container.get("MultiModelConfig", {}).get("ModelCacheSetting", "Enabled")
        return cls(
            hostname,
            container["Image"],
            container.get("Environment", {}),
            multi_model,
            data,
            compressed,
            cache == "Enabled",
        )

    @property
    def workers(self) -> int:
        """The requests for one model that an instance answers at once.

        SAGEMAKER_MODEL_SERVER_WORKERS is the variable of AWS's inference toolkit
        (github.com/aws/sagemaker-inference-toolkit, `parameters.py`), where the default is the
        number of vCPUs.
        """
        given = self.environment.get("SAGEMAKER_MODEL_SERVER_WORKERS", "")
        return int(given) if re.fullmatch("[1-9][0-9]{0,3}", given) else _DEFAULT_WORKERS

    def model(self, target: str) -> str:
        """The model that a TargetModel names. Below a prefix that ends with a slash, `/a.tar.gz`
        and `a.tar.gz` are the same."""
        return target.lstrip("/") if self.data is None or self.data.folder == self.data else target


@dataclass(frozen=True)
class ModelSpec:
    """The containers of a model, in its order. A request passes through all of them, or with
    `direct` goes to the one that it names."""

    containers: tuple[ContainerSpec, ...]
    direct: bool

    @classmethod
    def parse(cls, model: Document) -> "ModelSpec":
        """From a CreateModel request. Raises ValidationException for a model that cannot run."""
        given = model.get("Containers") or []
        if ("PrimaryContainer" in model) == bool(given):
            raise validation("Exactly one of PrimaryContainer and Containers must be given")
        given = given or [model["PrimaryContainer"]]
        direct = model.get("InferenceExecutionConfig", {}).get("Mode") == "Direct"
        if direct and len(given) == 1:
            raise validation("InferenceExecutionConfig.Mode Direct needs more than one container")
        hostnames = _hostnames(given, direct=direct)
        containers = tuple(map(ContainerSpec.parse, hostnames, given))
        multi_model = sum(container.multi_model for container in containers)
        if direct and multi_model:
            raise not_emulated("A multi-model container in a model with direct invocation")
        if multi_model > 1:
            # AWS's words (github.com/OElesin/sagemaker-autopilot-step-functions, issue 10).
            raise validation(
                "More than one container in MultiModel mode is not supported with inference "
                "pipeline."
            )
        _check_environments(containers)
        return cls(containers, direct)

    @property
    def multi_model(self) -> ContainerSpec | None:
        """The container whose model each request names, if there is one."""
        return next((one for one in self.containers if one.multi_model), None)

    @property
    def images(self) -> tuple[str, ...]:
        """The containers' images."""
        return tuple(container.image for container in self.containers)


def _hostnames(containers: list[Document], *, direct: bool) -> list[str]:
    """The names of a model's containers; without names those of an inference pipeline are
    `container-1` and so on (docs.aws.amazon.com/sagemaker/latest/dg/logging-cloudwatch.html)."""
    if len(containers) == 1:
        return [PRIMARY]
    given = [container.get("ContainerHostname") for container in containers]
    named = [name for name in given if name]
    if direct and len(named) < len(containers):
        raise validation(
            "ContainerHostname is required for each container of a model with direct invocation"
        )
    if not named:
        return [f"container-{number}" for number in range(1, len(containers) + 1)]
    if len(named) < len(containers):
        raise validation(
            "If ContainerHostname is given for one container of an inference pipeline, it must be "
            "given for every container"
        )
    if len(set(named)) < len(named):
        raise validation(
            "The containers of a model must have different values of ContainerHostname"
        )
    return named


def _check_environments(containers: tuple[ContainerSpec, ...]) -> None:
    size = sum(
        len(name.encode()) + len(value.encode())
        for container in containers
        for name, value in container.environment.items()
    )
    if size > _ENVIRONMENT_LIMIT_BYTES:
        raise validation(
            f"The keys and values of all Environment maps of a model have {size} bytes. They must "
            f"have at most {_ENVIRONMENT_LIMIT_BYTES}."
        )


def _model_data(container: Document, multi_model: bool) -> tuple[S3Location | None, bool]:
    if "ModelDataUrl" in container and "ModelDataSource" in container:
        raise validation("ModelDataUrl and ModelDataSource exclude each other")
    if "ModelDataUrl" in container:
        return S3Location.parse(container["ModelDataUrl"]), not multi_model
    source = container.get("ModelDataSource")
    if not source:
        return None, False
    if "S3DataSource" not in source:
        raise validation("ModelDataSource.S3DataSource is required")
    source = source["S3DataSource"]
    compressed = source["CompressionType"] == "Gzip"
    prefix = source["S3DataType"] == "S3Prefix"
    if prefix and compressed:
        raise validation(
            "ModelDataSource: an S3Prefix must have CompressionType None; give an S3Object for a "
            "tar.gz"
        )
    if prefix and not source["S3Uri"].endswith("/"):
        raise validation("ModelDataSource: the S3Uri of an S3Prefix must end with a slash")
    return S3Location.parse(source["S3Uri"]), compressed


class Models:
    """All models of the account."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.operations: dict[str, Operation] = {
            "CreateModel": self.create,
            "DescribeModel": self.describe,
            "ListModels": self.list_page,
            "DeleteModel": self.delete,
        }

    def get(self, name: str) -> Document:
        """The model, or ValidationException as AWS words it."""
        model = self._cloud.store.get(KIND, name)
        if model is None:
            raise not_found(f'model "{self._cloud.arn(KIND, name)}"')
        return model

    async def create(self, params: dict[str, Any]) -> dict[str, Any]:
        """CreateModel. The data of containers of a single model must already exist, as on
        AWS."""
        name = params["ModelName"]
        arn = self._cloud.arn(KIND, name)
        for container in ModelSpec.parse(params).containers:
            if container.data is not None and not container.multi_model:
                await asyncio.to_thread(self._check_data, container.data)
        if self._cloud.taken(KIND, name):
            raise validation(f'Cannot create already existing model "{arn}".')
        document = {key: value for key, value in params.items() if key != "Tags"}
        document |= {"ModelArn": arn, "CreationTime": self._cloud.clock.now()}
        self._cloud.store.put(KIND, name, document)
        self._cloud.put_tags(arn, params.get("Tags"))
        return {"ModelArn": arn}

    def _check_data(self, data: S3Location) -> None:
        try:
            found = self._cloud.s3.list_objects_v2(
                Bucket=data.bucket, Prefix=data.key, MaxKeys=1
            ).get("Contents")
        except ClientError:
            found = None
        if not found:
            raise validation(f"Could not find model data at {data.uri}.")

    async def describe(self, params: dict[str, Any]) -> dict[str, Any]:
        """DescribeModel."""
        return self.get(params["ModelName"])

    async def list_page(self, params: dict[str, Any]) -> dict[str, Any]:
        """ListModels."""
        models, token = page(self._cloud.store.all(KIND), params)
        return {"Models": models, "NextToken": token}

    async def delete(self, params: dict[str, Any]) -> dict[str, Any]:
        """DeleteModel; endpoints that serve the model keep it."""
        model = self.get(params["ModelName"])
        self._cloud.store.delete(KIND, params["ModelName"])
        self._cloud.store.delete("tags", model["ModelArn"])
        return {}
