"""The execution roles of silo tenants: one for each tenant of a workload, under which its jobs and
containers run (docs/decisions/0027-roles-of-silo-tenants.md).

All of them have one policy, the stack's ``SiloPolicy``: as what they may do, and as their
permissions boundary. Its resources hold variables such as ``${aws:PrincipalTag/tenant}``. IAM fills
them in from the tags of the role, which each of its sessions has
(https://docs.aws.amazon.com/IAM/latest/UserGuide/id_session-tags.html, "IAM tags"). So a role
reaches what its tags name, and no policy has to be written for it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from botocore.exceptions import ClientError

from tenantry.aws.objects import error_code
from tenantry.names import ids, sagemaker_names
from tenantry.names.tiers import Own

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_T = TypeVar("_T")
TENANT_TAG: Final = "tenantry:tenant"
"""The tag of each resource of a silo tenant, by which IAM and the bill know it."""
SETTLES: Final = timedelta(minutes=2)
"""How old a role is when every part of AWS knows it.

AWS names no limit: "changes ... might not be immediately visible"
(https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot.html, eventual consistency).
"""
_PAUSE_SECONDS: Final = 3.0


@dataclass(frozen=True)
class SiloRole:
    """A silo tenant's execution role; ``made`` is when."""

    name: str
    arn: str
    made: datetime


def tenant_tags(tenant: ids.TenantId) -> list[dict[str, str]]:
    """The tag of a silo tenant's resources, as SageMaker and IAM take it."""
    return [{"Key": TENANT_TAG, "Value": str(tenant)}]


def silo_role_arn(deployment: Deployment, workload: ids.WorkloadName, tenant: ids.TenantId) -> str:
    """The ARN that a tenant's role has, or will have."""
    home = sagemaker_names.endpoint_name(deployment.prefix, workload, Own(tenant))
    return f"{deployment.silo_roles}/{workload}/{silo_role_name(deployment, home)}"


def silo_role_name(deployment: Deployment, endpoint: str) -> str:
    """The name of the role of a silo tenant; ``endpoint`` is the name of its multi-model
    endpoint."""
    region = deployment.silo_roles.rpartition("/")[2]
    return sagemaker_names.silo_role_name(endpoint, region)


def ensure_silo_role(
    deployment: Deployment, workload: ids.WorkloadName, tenant: ids.TenantId
) -> SiloRole:
    """Make a tenant's role, unless it is there. A repeated call finishes an interrupted one."""
    iam = deployment.iam
    name = silo_role_arn(deployment, workload, tenant).rpartition("/")[2]
    try:
        made = iam.get_role(RoleName=name)["Role"]
    except ClientError as error:
        if not _is_missing(error):
            raise
        made = _create(deployment, workload, tenant, name)
    role = SiloRole(name, made["Arn"], made["CreateDate"])
    # The role of a call that was interrupted lacks it; a second one changes nothing.
    attach = partial(iam.attach_role_policy, RoleName=name, PolicyArn=deployment.silo_policy)
    usable(role, attach)
    return role


def _create(
    deployment: Deployment, workload: ids.WorkloadName, tenant: ids.TenantId, name: str
) -> Any:
    try:
        return deployment.iam.create_role(
            Path=_path(deployment, workload),
            RoleName=name,
            AssumeRolePolicyDocument=json.dumps(trust_policy(deployment)),
            Description=f"Jobs and endpoints of one silo tenant of {workload}.",
            PermissionsBoundary=deployment.silo_policy,
            Tags=role_tags(deployment.prefix, workload, tenant),
        )["Role"]
    except ClientError as error:
        if error_code(error) != "EntityAlreadyExists":
            raise
        return deployment.iam.get_role(RoleName=name)["Role"]  # another process was quicker


def trust_policy(deployment: Deployment) -> dict[str, Any]:
    """Who takes a silo tenant's role on: SageMaker alone, for this account."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "sagemaker.amazonaws.com"},
                "Action": ["sts:AssumeRole"],
                "Condition": {
                    "StringEquals": {"aws:SourceAccount": deployment.silo_roles.split(":")[4]}
                },
            }
        ],
    }


def role_tags(
    prefix: str, workload: ids.WorkloadName, tenant: ids.TenantId
) -> list[dict[str, str]]:
    """The tags of a role: the parts of keys that ``SiloPolicy`` puts together, and the tenant's
    own tag."""
    known = {
        "tenant": str(tenant),
        "workload": str(workload),
        "silo": ids.silo_digest(tenant),
        "endpoint": sagemaker_names.endpoint_name(prefix, workload, Own(tenant)),
    }
    return [{"Key": key, "Value": value} for key, value in known.items()] + tenant_tags(tenant)


def silo_roles(deployment: Deployment, workload: ids.WorkloadName) -> Iterator[SiloRole]:
    """The roles of all silo tenants of a workload."""
    pages = deployment.iam.get_paginator("list_roles")
    for page in pages.paginate(PathPrefix=_path(deployment, workload)):
        for one in page["Roles"]:
            yield SiloRole(one["RoleName"], one["Arn"], one["CreateDate"])


def delete_silo_role(deployment: Deployment, name: str) -> None:
    """Delete a role, unless another process has. SageMaker can then neither start a job nor an
    instance with it."""
    for delete, arguments in (
        (deployment.iam.detach_role_policy, {"PolicyArn": deployment.silo_policy}),
        (deployment.iam.delete_role, {}),
    ):
        call: Any = delete
        try:
            call(RoleName=name, **arguments)
        except ClientError as error:
            if not _is_missing(error):
                raise


def usable(role: SiloRole | None, call: Callable[[], _T]) -> _T:
    """Make a call with a role, again while the role is so new that AWS may not know it, or not its
    policy.

    Raises:
        ClientError: AWS refuses for another reason, or does not know a role that is older than
            ``SETTLES``.
    """
    while True:
        try:
            return call()
        except ClientError as error:
            new = role is not None and datetime.now(UTC) - role.made < SETTLES
            if not new or not (_cannot_use(error) or _is_missing(error)):
                raise
        time.sleep(_PAUSE_SECONDS)


def _cannot_use(error: ClientError) -> bool:
    """Whether SageMaker could not take the role on, or found nothing in S3 by it; it words that in
    several ways, and names the action that the role may lack."""
    message = str(error.response.get("Error", {}).get("Message", "")).lower()
    words = (
        "could not assume role",
        "cannot be assumed",
        "unable to assume",
        "sts:assumerole",
        "s3:getobject",
        "s3:listbucket",
    )
    return error_code(error) == "ValidationException" and any(word in message for word in words)


def _is_missing(error: ClientError) -> bool:
    return error_code(error) == "NoSuchEntity"


def _path(deployment: Deployment, workload: ids.WorkloadName) -> str:
    """IAM's path of a workload's roles."""
    return f"{deployment.silo_roles.partition(':role')[2]}/{workload}/"
