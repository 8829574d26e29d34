"""The steps of a release that `.github/workflows/release.yml` takes: ``python -m
infrastructure.release check|publish|deploy``.

An image is pushed under a tag of its own first, its candidate. ECR scans it. It is given the
release's tag if the scan found nothing critical. The stack is deployed with the images' digests.
"""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from infrastructure.deploy import DeploymentError, deploy
from infrastructure.images import IMAGES, BuildError, tags
from infrastructure.set_up import ROOT
from tenantry.aws.deployment import aws_session

_GOING_ON: Final = {"IN_PROGRESS", "PENDING", "ScanNotFoundException"}
_DONE: Final = {"COMPLETE", "ACTIVE"}  # of basic and of enhanced scanning


class ReleaseError(Exception):
    """Why a release goes no further, and the cure."""


def version_of(tag: str, project: Path = ROOT / "pyproject.toml") -> str:
    """The version that a git tag, as ``v0.1.0``, releases.

    Raises:
        ReleaseError: the tag is not that of the project's version.
    """
    version = str(tomllib.loads(project.read_text())["project"]["version"])
    if tag != f"v{version}":
        raise ReleaseError(
            f"The tag {tag} is not v{version}, the project's version: set version in "
            f"pyproject.toml, and image_tag in the workloads that are to run the new images."
        )
    return version


def publish(
    ecr: Any, repository: str, candidate: str, version: str, *, timeout: float = 1800.0
) -> str:
    """Give a pushed candidate the release's tag when ECR's scan of it found nothing critical.

    Args:
        ecr: a client of ECR.
        repository: the repository's name, as ``tenantry/forecast``.
        candidate: the tag that the image was pushed with.
        version: the tag of the release.
        timeout: seconds to wait for the scan.

    Returns:
        The image's digest.

    Raises:
        ReleaseError: the scan found something critical or did not end, or another image has the
            release's tag.
    """
    counts = _scanned(ecr, repository, candidate, timeout)
    if critical := counts.get("CRITICAL", 0):
        raise ReleaseError(
            f"ECR's scan of {repository}:{candidate} has {critical} critical findings. See them "
            f"with `aws ecr describe-image-scan-findings`, and build on a base without them."
        )
    image = _image(ecr, repository, candidate)
    digest = _digest(image)
    try:
        # Of a release that is run again, this image has the tag.
        with suppress(ecr.exceptions.ImageAlreadyExistsException):
            ecr.put_image(
                repositoryName=repository,
                imageManifest=image["imageManifest"],
                imageTag=version,
                imageManifestMediaType=image["imageManifestMediaType"],
                imageDigest=digest,  # ECR verifies it
            )
    except ecr.exceptions.ImageTagAlreadyExistsException as error:
        if _digest(_image(ecr, repository, version)) != digest:
            raise ReleaseError(
                f"{repository}:{version} is another image, and tags are immutable: release the "
                f"new one under a new version."
            ) from error
    return digest


def _scanned(ecr: Any, repository: str, tag: str, timeout: float) -> Mapping[str, int]:
    """The number of findings by severity, when the scan is done. Raises ReleaseError."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            found = ecr.describe_image_scan_findings(
                repositoryName=repository, imageId={"imageTag": tag}, maxResults=1
            )
            status = found["imageScanStatus"]["status"]
        except ecr.exceptions.ScanNotFoundException:  # not begun yet
            found, status = {}, "ScanNotFoundException"
        if status in _DONE:
            counts: Mapping[str, int] = found["imageScanFindings"].get("findingSeverityCounts", {})
            return counts
        if status not in _GOING_ON:
            reason = found["imageScanStatus"].get("description", "no reason given")
            raise ReleaseError(f"ECR did not scan {repository}:{tag}: {status} ({reason})")
        if time.monotonic() > deadline:
            raise ReleaseError(f"ECR's scan of {repository}:{tag} did not end in {timeout:.0f} s.")
        time.sleep(min(10.0, max(0.0, deadline - time.monotonic()) + 0.01))


def _image(ecr: Any, repository: str, tag: str) -> Mapping[str, Any]:
    """An image with its manifest and digest. Raises ReleaseError where ECR does not have it."""
    images: Sequence[Mapping[str, Any]] = ()
    try:
        asked = [{"imageTag": tag}]
        images = ecr.batch_get_image(repositoryName=repository, imageIds=asked)["images"]
    except ecr.exceptions.RepositoryNotFoundException:
        pass
    if not images:
        raise ReleaseError(
            f"ECR has no image {repository}:{tag}. Release it first, or name a tag that was "
            f"released in image_tag of the workload."
        )
    return images[0]


def _digest(image: Mapping[str, Any]) -> str:
    return str(image["imageId"]["imageDigest"])


def digests(ecr: Any, prefix: str, version: str, workloads: Path) -> Mapping[str, str]:
    """The digests, by ``container:tag``, of all the release's images and of those that the
    workloads ask for.

    Raises:
        ReleaseError: ECR lacks one of them.
    """
    wanted = {(name, version) for name in IMAGES}
    for name in IMAGES:
        try:
            wanted |= {(name, tag) for tag in tags(name, workloads)}
        except BuildError:
            continue  # no workload uses it
    return {
        f"{name}:{tag}": _digest(_image(ecr, f"{prefix}/{name}", tag))
        for name, tag in sorted(wanted)
    }


def _parse(command_line: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m infrastructure.release", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="see that a git tag is that of the version")
    publishing = commands.add_parser("publish", help="see to an image's scan, and tag the image")
    publishing.add_argument("image", choices=list(IMAGES))
    publishing.add_argument("--candidate", required=True, help="the tag that it was pushed with")
    deploying = commands.add_parser("deploy", help="deploy the stack with the images' digests")
    deploying.add_argument("--stack", default="tenantry")
    for each in (publishing, deploying):
        each.add_argument("--prefix", default="tenantry", help="the stack's parameter")
    for each in (check, publishing, deploying):
        each.add_argument("--tag", required=True, help="the git tag, as v0.1.0")
    return parser.parse_args(command_line)


def main(command_line: Sequence[str] | None = None) -> int:
    """Take the step that the command line names; returns the exit status."""
    asked = _parse(command_line)
    try:
        version = version_of(asked.tag)
        if asked.command == "publish":
            repository = f"{asked.prefix}/{asked.image}"
            digest = publish(aws_session().client("ecr"), repository, asked.candidate, version)
            sys.stdout.write(f"{repository}:{version} is {digest}\n")
        if asked.command == "deploy":
            ecr = aws_session().client("ecr")
            pinned = digests(ecr, asked.prefix, version, ROOT / "workloads")
            deploy(asked.stack, asked.prefix, image_digests=pinned)
            sys.stdout.writelines(f"{image} is {digest}\n" for image, digest in pinned.items())
    except (ReleaseError, DeploymentError, BotoCoreError, ClientError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
