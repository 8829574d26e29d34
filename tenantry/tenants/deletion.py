"""Deletes what a removed endpoint or workload had in S3. Few roles may."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment


def delete_under(deployment: Deployment, bucket: str, prefix: str) -> int:
    """Delete the objects whose keys begin with ``prefix``; returns how many there were."""
    count = 0
    pages = deployment.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    for page in pages:
        found: Any = [{"Key": entry["Key"]} for entry in page.get("Contents", [])]
        if found:  # a page has as many as DeleteObjects takes
            deployment.s3.delete_objects(Bucket=bucket, Delete={"Objects": found, "Quiet": True})
        count += len(found)
    return count
