"""Tags of every kind of resource: AddTags, ListTags, DeleteTags."""

from typing import Any

from local_sagemaker.account.cloud import Cloud, Operation
from local_sagemaker.account.state import Document
from local_sagemaker.errors import validation

_LIMIT = 50


def check_tags(tags: list[dict[str, str]]) -> None:
    """Refuse a list that names a key twice, or a key that AWS reserves. Raises
    ValidationException."""
    keys = [tag["Key"] for tag in tags]
    _check_keys(keys)
    if len(set(keys)) != len(keys):
        raise validation("The request has duplicate tag keys; give each key once.")


def _check_keys(keys: list[str]) -> None:
    """AWS uses these words, and ignores the case of the prefix."""
    for key in keys:
        if key.lower().startswith("aws:"):
            raise validation(f"System prefix 'aws:' reserved for AWS usage in tag key: {key}")


class Tags:
    """The tags of all resources, by ARN."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.operations: dict[str, Operation] = {
            "AddTags": self.add,
            "ListTags": self.list_page,
            "DeleteTags": self.delete,
        }

    async def add(self, params: dict[str, Any]) -> dict[str, Any]:
        """AddTags: an existing key gets the new value."""
        document = self._document(params["ResourceArn"])
        tags = {tag["Key"]: tag["Value"] for tag in (*document["Tags"], *params["Tags"])}
        if len(tags) > _LIMIT:
            raise validation(f"A resource can have at most {_LIMIT} tags")
        return self._put(params["ResourceArn"], tags)

    async def list_page(self, params: dict[str, Any]) -> dict[str, Any]:
        """ListTags; at most 50 tags exist, so there is always one page."""
        return {"Tags": self._document(params["ResourceArn"])["Tags"]}

    async def delete(self, params: dict[str, Any]) -> dict[str, Any]:
        """DeleteTags."""
        _check_keys(params["TagKeys"])
        document = self._document(params["ResourceArn"])
        self._put(
            params["ResourceArn"],
            {
                tag["Key"]: tag["Value"]
                for tag in document["Tags"]
                if tag["Key"] not in params["TagKeys"]
            },
        )
        return {}

    def _put(self, arn: str, tags: dict[str, str]) -> dict[str, Any]:
        listed = [{"Key": key, "Value": value} for key, value in tags.items()]
        self._cloud.put_tags(arn, listed)
        return {"Tags": listed}

    def _document(self, arn: str) -> Document:
        document = self._cloud.store.get("tags", arn)
        if document is None:
            raise validation(f"Could not find resource {arn}")
        return document
