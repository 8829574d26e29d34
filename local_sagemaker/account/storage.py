"""S3 as SageMaker uses it: prefixes, manifests, shards, downloads and uploads.

Sources: docs.aws.amazon.com/sagemaker/latest/APIReference/API_S3DataSource.html (prefix, manifest,
distribution) and
docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html (files
in the container). All functions block; call them from a thread.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from local_sagemaker.errors import LocalSageMakerError

MANIFEST_LIMIT_BYTES = 64 * 1024 * 1024
Item = TypeVar("Item")


class DataError(LocalSageMakerError):
    """Data in S3 are unusable; the message names them and the reason."""


@dataclass(frozen=True)
class S3Location:
    """A bucket and a key or key prefix."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> "S3Location":
        """From `s3://bucket/key`. Raises DataError."""
        scheme, _, rest = uri.partition("://")
        bucket, _, key = rest.partition("/")
        if scheme != "s3" or not bucket:
            raise DataError(f"{uri!r} is not an S3 URI of the form s3://bucket/key")
        return cls(bucket, key)

    @property
    def uri(self) -> str:
        """`s3://bucket/key`."""
        return f"s3://{self.bucket}/{self.key}"

    def child(self, name: str) -> "S3Location":
        """`name` below this prefix: a slash between, unless the prefix is empty or ends with one.

        Further slashes at its end are part of it, because S3's keys are text: `out//` and `out/`
        are different prefixes.
        """
        return S3Location(self.bucket, self.folder.key + name)

    @property
    def folder(self) -> "S3Location":
        """This prefix with a slash at its end, unless it is empty."""
        return (
            self
            if not self.key or self.key.endswith("/")
            else S3Location(self.bucket, f"{self.key}/")
        )


@dataclass(frozen=True)
class InputObject:
    """An object of an input: its location, and its path below the input's folder."""

    location: S3Location
    name: str


def failure_reason(error: Exception, what: str = "") -> str:
    """The FailureReason of data that could not be moved, beginning with `what`. An unavailable S3
    is AWS's fault; any other error is the client's."""
    transient = (
        isinstance(error, ClientError)
        and error.response["ResponseMetadata"].get("HTTPStatusCode", 0) >= 500
    )
    if transient or isinstance(error, BotoCoreError):
        return (
            f"InternalServerError: We encountered an internal error. Please try again. "
            f"{what}{error}"
        )
    return f"ClientError: {what}{error}"


def name_below(prefix: str, key: str) -> str:
    """The path of a key in the folder of its prefix.

    Below a folder it is the rest of the key. For a prefix that is not a folder, it starts at the
    folder that contains the prefix. A name never begins with a slash.
    """
    if prefix.endswith("/") or not prefix:
        return key[len(prefix) :].lstrip("/")
    if key.startswith(prefix + "/"):
        return key[len(prefix) :].lstrip("/")
    return key[prefix.rfind("/") + 1 :]


def list_prefix(s3: Any, prefix: S3Location) -> list[InputObject]:
    """All objects below a prefix, in the order of their keys, without folder markers."""
    objects: list[InputObject] = []
    for page in s3.get_paginator("list_objects_v2").paginate(
        Bucket=prefix.bucket, Prefix=prefix.key
    ):
        keys = [
            entry["Key"] for entry in page.get("Contents", []) if not entry["Key"].endswith("/")
        ]
        objects.extend(
            InputObject(S3Location(prefix.bucket, key), name_below(prefix.key, key)) for key in keys
        )
    return objects


def read_manifest(s3: Any, manifest: S3Location) -> list[InputObject]:
    """The objects that a ManifestFile names: `[{"prefix": "s3://…/"}, "name", …]`. Raises
    DataError."""
    answer = s3.get_object(Bucket=manifest.bucket, Key=manifest.key)
    if answer["ContentLength"] > MANIFEST_LIMIT_BYTES:
        raise DataError(
            f"manifest {manifest.uri} has {answer['ContentLength']} bytes, more than "
            f"{MANIFEST_LIMIT_BYTES}"
        )
    return parse_manifest(answer["Body"].read(), manifest.uri)


def parse_manifest(text: bytes, where: str) -> list[InputObject]:
    """The objects that the text of the manifest at `where` names. Raises DataError."""
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise DataError(f"manifest {where} is not JSON: {error}") from error
    if (
        not isinstance(entries, list)
        or not entries
        or not isinstance(entries[0], dict)
        or set(entries[0]) != {"prefix"}
    ):
        raise DataError(f'manifest {where} must be a list that begins with {{"prefix": "s3://…"}}')
    prefix = entries[0]["prefix"]
    names = entries[1:]
    if not isinstance(prefix, str) or not all(isinstance(name, str) and name for name in names):
        raise DataError(f"manifest {where}: the prefix and every entry after it must be text")
    base = S3Location.parse(prefix)
    return [
        InputObject(S3Location(base.bucket, base.key + name), name.lstrip("/")) for name in names
    ]


def source_objects(s3: Any, source: Mapping[str, Any]) -> list[InputObject]:
    """The objects that the S3 data source of an input names by its S3Uri and S3DataType. Raises
    DataError or ClientError."""
    location = S3Location.parse(source["S3Uri"])
    if source["S3DataType"] == "ManifestFile":
        return read_manifest(s3, location)
    return list_prefix(s3, location)


def matching_objects(s3: Any, source: Mapping[str, Any]) -> list[InputObject]:
    """The same. Raises DataError where there are none."""
    objects = source_objects(s3, source)
    if not objects:
        raise DataError(f"S3 key: {source['S3Uri']} matched no files on s3")
    return objects


def host_share(
    objects: Sequence[InputObject], source: Mapping[str, Any], count: int, number: int
) -> list[InputObject]:
    """The objects of a data source that host `number` of `count` gets, by its
    S3DataDistributionType."""
    if source.get("S3DataDistributionType") == "ShardedByS3Key":
        return shard(objects, count, number)
    return list(objects)


def shard(items: Sequence[Item], count: int, number: int) -> list[Item]:
    """The items of shard `number` of `count`: every item is in exactly one shard, sizes differ by
    at most one."""
    return list(items[number::count])


def safe_path(folder: Path, name: str) -> Path:
    """`name` below `folder`. Raises DataError for a name that leads out of it."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise DataError(f"object name {name!r} is no path inside a folder")
    return folder.joinpath(*parts)


def download(s3: Any, location: S3Location, path: Path) -> None:
    """One object into one file. Raises DataError with the cause."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        body = s3.get_object(Bucket=location.bucket, Key=location.key)["Body"]
        with path.open("wb") as file:
            shutil.copyfileobj(body, file, 1 << 20)
    except FileExistsError as error:
        raise DataError(
            f"{location.uri}: a part of its path is both a folder and a file"
        ) from error
    except OSError as error:
        raise DataError(f"{location.uri} could not be written: {error}") from error


def download_all(s3: Any, objects: Sequence[InputObject], folder: Path, pool: Executor) -> None:
    """Every object to its name below `folder`, several at a time. Raises DataError or botocore's
    ClientError."""
    folder.mkdir(parents=True, exist_ok=True)
    waiting = [
        pool.submit(download, s3, item.location, safe_path(folder, item.name)) for item in objects
    ]
    try:
        for done in waiting:
            done.result()
    finally:
        for left in waiting:
            left.cancel()


def upload(s3: Any, path: Path, target: S3Location) -> None:
    """One file into one object (at most 5 GiB, S3's limit for a single put)."""
    with path.open("rb") as file:
        s3.put_object(Bucket=target.bucket, Key=target.key, Body=file)


def files_below(folder: Path, *, links: bool = True) -> Iterator[tuple[str, Path]]:
    """Every file below a folder, which may change meanwhile, with its name there; without `links`,
    no symbolic link."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (links or not path.is_symlink()):
            yield path.relative_to(folder).as_posix(), path


def upload_folder(s3: Any, folder: Path, prefix: S3Location, *, links: bool = True) -> int:
    """Every file below `folder` to its name below `prefix`; returns the number of files. Without
    `links`, symbolic links are left out."""
    count = 0
    for name, path in files_below(folder, links=links):
        upload(s3, path, prefix.child(name))
        count += 1
    return count
