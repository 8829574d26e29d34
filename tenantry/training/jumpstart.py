"""A base from SageMaker JumpStart: its artifact is found by the model's id, and copied into the
data bucket as a saved diffusers pipeline, which the roles of jobs and endpoints may read.

JumpStart keeps a list of its models and a specification of each version in a bucket of each region
(https://docs.aws.amazon.com/sagemaker/latest/dg/jumpstart-foundation-models.html). Both have the
form that the ``sagemaker`` library reads (``sagemaker.core.jumpstart``).
"""

from __future__ import annotations

import difflib
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Final

from botocore.exceptions import ClientError

from contracts.documents import Fields, parse_json
from contracts.errors import MalformedDocumentError
from tenantry.aws import objects
from tenantry.errors import TenantryError
from tenantry.names import s3_keys

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

MANIFEST: Final = "models_manifest.json"
INDEX: Final = "model_index.json"
"""The file that makes a folder a saved diffusers pipeline."""
WEIGHTS: Final = ".safetensors"
KINDS: Final = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
"""The pipelines that the container of portraits draws with; JumpStart also has such that fill in or
enlarge pictures."""
_TAKEN: Final = (".json", ".txt", WEIGHTS)
"""What the container reads of a pipeline; pickled weights are not among it."""
_MANIFEST_BYTES: Final = 64 * 1024 * 1024
_SPEC_BYTES: Final = 8 * 1024 * 1024
_INDEX_BYTES: Final = 1024 * 1024
_MOST_MEMBERS: Final = 10_000
_MOST_BYTES: Final = 128 * 1024**3
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")
_VERSION: Final = re.compile(r"\d+(\.\d+)*")
_REFUSED: Final = ("403", "AccessDenied", "Forbidden")


class JumpStartError(TenantryError, RuntimeError):
    """A model of JumpStart cannot become a base; the message gives the reason and the cure."""


@dataclass(frozen=True)
class Artifact:
    """A version of a JumpStart model. ``key`` is a ``.tar.gz`` or ends with a slash; it lies in
    ``bucket``. ``eula`` is the key of the licence that its user accepts, "" without one."""

    model: str
    version: str
    bucket: str
    key: str
    eula: str

    @property
    def uri(self) -> str:
        """Where it lies."""
        return f"s3://{self.bucket}/{self.key}"


def content_bucket(region: str, *, gated: bool = False) -> str:
    """The region's bucket of JumpStart; ``gated`` is that of models with a licence to accept. Their
    names stand in the ``sagemaker`` library's ``region_config.json``."""
    return f"jumpstart-{'private-' if gated else ''}cache-prod-{region}"


def find(deployment: Deployment, model: str, version: str | None = None) -> Artifact:
    """The artifact of a model of JumpStart, of its newest version if none is named.

    A model that JumpStart can train has an artifact for it, which holds the weights as they are
    tuned. Of another model it is the one for inference: as in the ``sagemaker`` library, the
    prepacked one where there is one.

    Raises:
        JumpStartError: there is no such model or version, it is deprecated, or AWS refuses.
        MalformedDocumentError: JumpStart's documents are not of the known form.
    """
    if not _NAME.fullmatch(model):
        raise JumpStartError(f"{model[:100]!r} is not the id of a JumpStart model")
    s3, region = deployment.s3, deployment.s3.meta.region_name
    bucket = content_bucket(region)
    with _told(f"s3://{bucket}"):
        listed = parse_json(objects.read_bytes(s3, bucket, MANIFEST, _MANIFEST_BYTES), MANIFEST)
    if not isinstance(listed, list):
        raise MalformedDocumentError(MANIFEST, "", "must be a list of models")
    versions: dict[str, str] = {}
    for entry in listed:
        header = Fields.of(entry, MANIFEST, "a model")
        if header.values.get("model_id") == model:
            versions[header.text("version", _VERSION)] = str(header.values.get("spec_key"))
    if not versions:
        raise JumpStartError(_unknown(model, [str(one.get("model_id")) for one in listed], region))
    chosen = version or max(versions, key=_parts)
    if chosen not in versions:
        there = ", ".join(sorted(versions, key=_parts))
        raise JumpStartError(f"{model} has no version {chosen[:40]!r}; there are {there}")
    with _told(f"s3://{bucket}"):
        spec = Fields.read(
            objects.read_bytes(s3, bucket, versions[chosen], _SPEC_BYTES),
            "the model's specification",
            _SPEC_BYTES,
        )
    if spec.flag("deprecated"):
        raise JumpStartError(
            f"{model} {chosen} is deprecated in JumpStart; name another version, or a hub id as "
            f"base"
        )
    field = "hosting_artifact_key"
    if spec.flag("training_supported"):
        field = "training_artifact_key"
    elif spec.values.get("hosting_prepacked_artifact_key") is not None:
        field = "hosting_prepacked_artifact_key"
    key = spec.values.get(field)
    if not isinstance(key, str) or not key.endswith((".tar.gz", "/")):
        spec.refuse(field, "must be a .tar.gz or a prefix that ends with a slash")
    eula = spec.values.get("hosting_eula_key")
    return Artifact(
        model,
        chosen,
        content_bucket(region, gated=spec.flag("gated_bucket")),
        key,
        eula if isinstance(eula, str) else "",
    )


def base_uri(deployment: Deployment, artifact: Artifact) -> str:
    """Where the data bucket has, or will have, the pipeline: what a workload's file names."""
    return f"s3://{deployment.data_bucket}/{s3_keys.base_prefix(artifact.model, artifact.version)}"


def is_there(deployment: Deployment, artifact: Artifact) -> bool:
    """Whether the pipeline was copied whole before: its index is copied last."""
    key = f"{s3_keys.base_prefix(artifact.model, artifact.version)}/{INDEX}"
    return key in objects.keys_under(deployment.s3, deployment.data_bucket, key)


def copy(
    deployment: Deployment, artifact: Artifact, tell: Callable[[str, int], None] = lambda *_: None
) -> None:
    """Copy the artifact's pipeline into the data bucket. A copy that was killed is made anew.

    ``tell`` gets the name of each file that was copied, and its size in bytes.

    Raises:
        JumpStartError: there is no pipeline of ``KINDS`` with safetensors in it, or AWS refuses.
        MalformedDocumentError: the pipeline's index is not JSON.
    """
    with _told(artifact.uri):
        if artifact.key.endswith("/"):
            _copy_prefix(deployment, artifact, tell)
        else:
            _copy_archive(deployment, artifact, tell)


def _copy_prefix(
    deployment: Deployment, artifact: Artifact, tell: Callable[[str, int], None]
) -> None:
    s3, sizes = deployment.s3, dict[str, int]()
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket=artifact.bucket, Prefix=artifact.key
    )
    for page in pages:
        for entry in page.get("Contents", ()):
            sizes[entry["Key"].removeprefix(artifact.key)] = entry["Size"]
            _check_limits(artifact, sizes)
    root, files = _pipeline_of(artifact, list(sizes))
    index = objects.read_bytes(s3, artifact.bucket, f"{artifact.key}{files[-1]}", _INDEX_BYTES)
    _check_kind(artifact, index)
    for name in files:
        s3.copy(
            {"Bucket": artifact.bucket, "Key": f"{artifact.key}{name}"},
            deployment.data_bucket,
            _target(artifact, root, name),
            # S3 copies tags by default, and the operator's policy allows no call about tags.
            ExtraArgs={"TaggingDirective": "REPLACE"},
        )
        tell(name, sizes[name])


def _copy_archive(
    deployment: Deployment, artifact: Artifact, tell: Callable[[str, int], None]
) -> None:
    """Members go from the archive to S3 without a file of their own on this machine."""
    with tempfile.TemporaryFile(prefix="tenantry-base-") as file:
        deployment.s3.download_fileobj(artifact.bucket, artifact.key, file)
        sizes: dict[str, int] = {}
        index = b""
        for member, content in _members(artifact, file):
            sizes[member.name] = member.size
            _check_limits(artifact, sizes)
            if PurePosixPath(member.name).name == INDEX:
                index = content.read(_INDEX_BYTES)
        root, files = _pipeline_of(artifact, list(sizes))
        _check_kind(artifact, index)
        for member, content in _members(artifact, file):
            if member.name in files[:-1]:
                key = _target(artifact, root, member.name)
                deployment.s3.upload_fileobj(content, deployment.data_bucket, key)
                tell(member.name, member.size)
        key = _target(artifact, root, files[-1])
        objects.write_bytes(deployment.s3, deployment.data_bucket, key, index)
        tell(files[-1], len(index))


def _members(artifact: Artifact, file: IO[bytes]) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """The files of an archive, in its order, their names without a leading ``./``."""
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:gz") as tar:
            for number, member in enumerate(tar):
                if number >= _MOST_MEMBERS:
                    raise JumpStartError(f"{artifact.uri} has more than {_MOST_MEMBERS:,} members")
                if member.isdir():
                    continue
                path = PurePosixPath(member.name)
                content = tar.extractfile(member) if member.isreg() else None
                if content is None or path.is_absolute() or ".." in path.parts:
                    raise JumpStartError(
                        f"{artifact.uri} has a member that is no plain file inside it"
                    )
                member.name = str(path)
                yield member, content
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise JumpStartError(
            f"{artifact.uri} is not a whole gzipped tar archive: {type(error).__name__}"
        ) from error


def _check_limits(artifact: Artifact, sizes: Mapping[str, int]) -> None:
    if len(sizes) > _MOST_MEMBERS or sum(sizes.values()) > _MOST_BYTES:
        raise JumpStartError(
            f"{artifact.uri} has more than {_MOST_MEMBERS:,} files or "
            f"{_MOST_BYTES / 1024**3:,.0f} GiB"
        )


def _pipeline_of(artifact: Artifact, names: Sequence[str]) -> tuple[str, list[str]]:
    """The folder of the pipeline among files, and its files that are taken, the index last."""
    found = [name for name in names if PurePosixPath(name).name == INDEX]
    if len(found) != 1:
        raise JumpStartError(
            f"{artifact.uri} holds {len(found)} files {INDEX}; a saved diffusers pipeline has one. "
            f"Name a text-to-image model, or a hub id as base"
        )
    root = found[0].removesuffix(INDEX)
    files = [
        name
        for name in names
        if name.startswith(root) and name.endswith(_TAKEN) and name != found[0]
    ]
    if not any(name.endswith(WEIGHTS) for name in files):
        raise JumpStartError(
            f"{artifact.uri} has no {WEIGHTS} weights, and pickled ones are not taken: they run "
            f"what they hold. Name another version, or a hub id as base"
        )
    return root, [*files, found[0]]


def _check_kind(artifact: Artifact, index: bytes) -> None:
    kind = Fields.read(index, INDEX, _INDEX_BYTES).values.get("_class_name")
    if kind not in KINDS:
        raise JumpStartError(
            f"{artifact.uri} holds a {str(kind)[:60]}; one of {', '.join(KINDS)} is needed. Name a "
            f"text-to-image model, or a hub id as base"
        )


def _target(artifact: Artifact, root: str, name: str) -> str:
    """The key of a pipeline's file in the data bucket."""
    inside = name.removeprefix(root)
    if not all(_NAME.fullmatch(part) for part in inside.split("/")):
        raise JumpStartError(f"{artifact.uri} has a file whose name no key can have")
    return f"{s3_keys.base_prefix(artifact.model, artifact.version)}/{inside}"


def _parts(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def _unknown(model: str, known: Sequence[str], region: str) -> str:
    near = difflib.get_close_matches(model, known, n=3)
    said = f"; near it are {', '.join(near)}" if near else ""
    return f"JumpStart has no model {model[:100]!r} in {region}{said}"


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Tell in words what JumpStart's buckets answer otherwise."""
    try:
        yield
    except objects.ObjectMissingError as error:
        raise JumpStartError(f"{error}; the region may have no JumpStart") from error
    except ClientError as error:
        code = objects.error_code(error)
        if code in ("404", "NoSuchKey"):
            raise JumpStartError(f"{what} is not there, though JumpStart lists it") from error
        if code == "NoSuchBucket":
            raise JumpStartError(f"{what} is not there: the region has no JumpStart") from error
        if code in _REFUSED:
            raise JumpStartError(
                f"AWS refuses {what}: your role needs the stack's OperatorJobsPolicy, and a model "
                f"with a licence is open to accounts that accepted it"
            ) from error
        raise
