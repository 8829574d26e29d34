"""Models: CreateModel, DescribeModel, ListModels, DeleteModel, and the specification of a model's
container.

Source: docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateModel.html and
…/API_ContainerDefinition.html.
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
_DEFAULT_WORKERS = 4


@dataclass(frozen=True)
class ContainerSpec:
    """The specification that starts a model's container.

    `data` is the archive, object or prefix of the model, or the prefix of all models of a
    multi-model container; `compressed` says whether it is a tar.gz; `cached` is False where
    ModelCacheSetting is Disabled.
    """

    image: str
    environment: dict[str, str]
    multi_model: bool
    data: S3Location | None
    compressed: bool
    cached: bool

    @classmethod
    def parse(cls, model: Document) -> "ContainerSpec":
        """From a CreateModel request. Raises ValidationException for a container that cannot
        run."""
        if ("PrimaryContainer" in model) == ("Containers" in model):
            raise validation("Exactly one of PrimaryContainer and Containers must be given")
        containers = model.get("Containers") or [model["PrimaryContainer"]]
        if len(containers) != 1:
            raise not_emulated(
                "A model of several containers (inference pipeline, multi-container endpoint)"
            )
        container = containers[0]
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
        """CreateModel. A single model's data must already exist, as on AWS."""
        name = params["ModelName"]
        arn = self._cloud.arn(KIND, name)
        spec = ContainerSpec.parse(params)
        if spec.data is not None and not spec.multi_model:
            await asyncio.to_thread(self._check_data, spec.data)
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
