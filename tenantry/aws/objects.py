"""Reads and writes S3 with limits. Keys come from ``tenantry.names.s3_keys``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from tenantry.errors import TenantryError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


_DIGESTED_AT_ONCE: Final = 1024 * 1024  # bytes


class ObjectMissingError(TenantryError, LookupError):
    """There is no object under the key."""


class ObjectTooLargeError(TenantryError, ValueError):
    """The object is larger than its reader allows; nothing was read."""


class ObjectChangedError(TenantryError, RuntimeError):
    """Another process wrote the object after it was read."""


def error_code(error: ClientError) -> str:
    """The code AWS gave an error."""
    return str(error.response.get("Error", {}).get("Code", ""))


@dataclass(frozen=True)
class StoredObject:
    """An object as it was read. ``metadata`` are its writer's notes beside the content; ``written``
    is when S3 took it."""

    content: bytes
    content_type: str
    metadata: Mapping[str, str]
    written: datetime | None = None


def read_object(s3: S3Client, bucket: str, key: str, max_bytes: int) -> StoredObject:
    """The object with its content type and metadata.

    Raises:
        ObjectMissingError: there is none.
        ObjectTooLargeError: it has more than ``max_bytes``.
    """
    try:
        answer = s3.get_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error_code(error) in {"NoSuchKey", "404"}:
            raise ObjectMissingError(f"s3://{bucket}/{key} is not there") from error
        raise
    with answer["Body"] as body:
        if answer["ContentLength"] > max_bytes:
            raise ObjectTooLargeError(
                f"s3://{bucket}/{key} has {answer['ContentLength']} bytes; the limit is {max_bytes}"
            )
        content: bytes = body.read()
    return StoredObject(
        content,
        answer.get("ContentType", ""),
        answer.get("Metadata", {}),
        answer.get("LastModified"),
    )


def find_object(s3: S3Client, bucket: str, key: str, max_bytes: int) -> StoredObject | None:
    """The object, or None if there is none or the caller may not see it.

    S3 answers 403 for a missing key to a caller that may not list the bucket
    (https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html). A tenant's session may not
    list it.

    Raises:
        ObjectTooLargeError: it has more than ``max_bytes``.
    """
    try:
        return read_object(s3, bucket, key, max_bytes)
    except ObjectMissingError:
        return None
    except ClientError as error:
        if error_code(error) in {"AccessDenied", "403"}:
            return None
        raise


def read_bytes(s3: S3Client, bucket: str, key: str, max_bytes: int) -> bytes:
    """The object's content.

    Raises:
        ObjectMissingError: there is none.
        ObjectTooLargeError: it has more than ``max_bytes``.
    """
    return read_object(s3, bucket, key, max_bytes).content


def write_bytes(
    s3: S3Client,
    bucket: str,
    key: str,
    content: bytes,
    content_type: str = "application/octet-stream",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Put an object, replacing any under the key."""
    s3.put_object(
        Bucket=bucket,
        Key=key,
        Body=content,
        ContentType=content_type,
        Metadata=dict(metadata or {}),
    )


def write_json(
    s3: S3Client, bucket: str, key: str, document: Any, metadata: Mapping[str, str] | None = None
) -> None:
    """Put a JSON document."""
    content = json.dumps(document, separators=(",", ":")).encode()
    write_bytes(s3, bucket, key, content, "application/json", metadata)


def size(s3: S3Client, bucket: str, key: str) -> int:
    """Size of an object, in bytes. Raises ``ObjectMissingError``."""
    try:
        return int(s3.head_object(Bucket=bucket, Key=key)["ContentLength"])
    except ClientError as error:
        if error_code(error) in {"404", "NoSuchKey", "NotFound"}:
            raise ObjectMissingError(f"s3://{bucket}/{key} is not there") from error
        raise


def exists(s3: S3Client, bucket: str, key: str) -> bool:
    """Whether there is an object under the key."""
    try:
        size(s3, bucket, key)
    except ObjectMissingError:
        return False
    return True


def keys_under(s3: S3Client, bucket: str, prefix: str) -> Iterator[str]:
    """The keys that begin with ``prefix``, in order; one call for each thousand."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return (found["Key"] for page in pages for found in page.get("Contents", []))


def copy(
    s3: S3Client, bucket: str, source: str, destination: str, *, etag: str | None = None
) -> None:
    """Copy inside a bucket, without the bytes passing here.

    Args:
        s3: the client.
        bucket: of both objects.
        source: the key that is copied.
        destination: the key that it is copied to.
        etag: the ETag that the source must have; None accepts any.

    Raises:
        ObjectMissingError: there is no object under ``source``.
        ObjectChangedError: the source no longer has that ETag.
    """
    condition: Any = {} if etag is None else {"CopySourceIfMatch": etag}
    try:
        s3.copy_object(
            Bucket=bucket,
            Key=destination,
            CopySource={"Bucket": bucket, "Key": source},
            **condition,
        )
    except ClientError as error:
        if error_code(error) in {"NoSuchKey", "404"}:
            raise ObjectMissingError(f"s3://{bucket}/{source} is not there") from error
        if error_code(error) in {"PreconditionFailed", "412"}:
            raise ObjectChangedError(
                f"s3://{bucket}/{source} was written since it was read"
            ) from error
        raise


@dataclass(frozen=True)
class Digest:
    """The identity of an object's bytes: their number, hexadecimal SHA-256, and ETag in S3."""

    size: int
    sha256: str
    etag: str


def digest(s3: S3Client, bucket: str, key: str) -> Digest:
    """Compute an object's digest, reading it piece by piece. Raises ``ObjectMissingError``."""
    try:
        answer = s3.get_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error_code(error) in {"NoSuchKey", "404"}:
            raise ObjectMissingError(f"s3://{bucket}/{key} is not there") from error
        raise
    hashed, size = hashlib.sha256(), 0
    with answer["Body"]:
        for piece in answer["Body"].iter_chunks(_DIGESTED_AT_ONCE):
            hashed.update(piece)
            size += len(piece)
    return Digest(size, hashed.hexdigest(), answer["ETag"])


def sha256(content: bytes) -> str:
    """Hexadecimal digest."""
    return hashlib.sha256(content).hexdigest()
