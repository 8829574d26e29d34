"""What the role of a silo tenant may do, and who makes such roles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from tests.isolation.template import ACCOUNT, REGION

_DIGEST, _NEIGHBOURS = "4cdc1a4207f45b03", "94e1d935a208f5e8"  # of initech and of initech-2
_HOME: Final = f"tenantry-heating-silo-{_DIGEST}"
SILO_TAGS: Final[Mapping[str, str]] = {
    "aws:PrincipalTag/tenant": "initech",
    "aws:PrincipalTag/workload": "heating",
    "aws:PrincipalTag/silo": _DIGEST,
    "aws:PrincipalTag/endpoint": _HOME,
    "aws:PrincipalTag/tenantry:tenant": "initech",
}
"""The tags of the role of one silo tenant of one workload."""

_OWN: Final = {
    "training-data": ["training-data/heating/initech/v1/x"],
    "jobs": [f"jobs/heating/p-{_DIGEST}-0123/tasks.json"],
    "checkpoints": [f"checkpoints/heating/p-{_DIGEST}-0123/initech/v1.tar.gz"],
    "pipes": [f"pipes/heating/p-{_DIGEST}-0123/job/0123/algo-1/1.json"],
    "endpoints": [f"endpoints/{_HOME}/models/initech/v1.tar.gz"],
    "async": ["async/initech/heating/0123", "async/initech/heating/0123.input.copy"],
    "question": ["async/initech/heating/0123.input"],
    "record": ["async/initech/heating/0123.submitted"],
    "batches": [f"batches/heating/2026-01-02/b-{_DIGEST}-0123/input/initech.jsonl"],
}
# Of another workload, of a tenant whose id begins alike, of a shared pack, or in another place.
_NOT_OWN: Final = {
    "uploads": ["uploads/initech/heating/u1/manifest.json"],
    "predictions": ["predictions/initech/heating/2026-01-02.jsonl"],
    "archive": ["archive/initech/heating/2026-01-02/x.json"],
    "cache": ["cache/initech/heating/v1_0123"],
    "artifacts": ["artifacts/heating/initech/v1.tar.gz"],
    "async-failures": ["async-failures/heating/initech/x"],
    "demand": ["demand/heating/by-tenant/initech/x"],
    "tables": ["tables/heating/nightly/day=2026-01-02/initech.parquet"],
    "training-data": [
        "training-data/heating/initech-2/v1/x",
        "training-data/heating/globex/initech/x",
        "training-data/energy/initech/v1/x",
        "training-data/initech/heating/v1/x",
        "training-data/heating/initech",
    ],
    **{
        root: [
            f"{root}/heating/p-{_NEIGHBOURS}-0123/x",
            f"{root}/heating/p-{_DIGEST}/x",
            f"{root}/heating/p-{_DIGEST}0123/x",
            f"{root}/heating/p-0123/p-{_DIGEST}-0123/x",
            f"{root}/energy/p-{_DIGEST}-0123/x",
            f"{root}/x/heating/p-{_DIGEST}-0123/x",
        ]
        for root in ("jobs", "checkpoints", "pipes")
    },
    "endpoints": [
        f"endpoints/{_HOME}-2/models/initech/v1.tar.gz",
        f"endpoints/tenantry-heating-silo-{_NEIGHBOURS}/models/initech/v1.tar.gz",
        f"endpoints/tenantry-energy-silo-{_DIGEST}/models/initech/v1.tar.gz",
        f"endpoints/x/{_HOME}/models/initech/v1.tar.gz",
        "endpoints/tenantry-heating-bridge/models/initech/v1.tar.gz",
    ],
    "async": [
        "async/initech/energy/0123",
        "async/initech-2/heating/0123",
        "async/x/initech/heating/0123",
        "async/initech/heating-2/0123",
    ],
    "question": ["async/initech/energy/0123.input", "async/initech-2/heating/0123.input"],
    "batches": [
        f"batches/heating/2026-01-02/b-{_NEIGHBOURS}-0123/input/initech.jsonl",
        f"batches/heating/2026-01-02/b-{_DIGEST}/input/initech.jsonl",
        f"batches/heating/2026-01-02/b-{_DIGEST}0123/input/initech.jsonl",
        f"batches/heating/2026-01-02/b-0123/b-{_DIGEST}-0123/x",
        f"batches/heating/x/b-{_DIGEST}-0123/x",
        f"batches/energy/2026-01-02/b-{_DIGEST}-0123/input/initech.jsonl",
        f"batches/x/heating/2026-01-02/b-{_DIGEST}-0123/x",
    ],
}
_LISTED: Final = ("training-data", "jobs", "checkpoints", "pipes", "endpoints", "async", "batches")

SILO_ROLE: Final[Mapping[str, str]] = {
    "s3:GetObject": "training-data@silo jobs@silo checkpoints@silo pipes@silo endpoints@silo "
    "question@silo batches@silo",
    "s3:PutObject s3:AbortMultipartUpload": "jobs@silo checkpoints@silo pipes@silo async@silo "
    "question@silo record@silo batches@silo",
    "s3:ListBucket": " ".join(f"list:{name}@silo" for name in _LISTED),
    "sns:Publish": "AsyncSuccessTopic AsyncErrorTopic",
}
MAKES_SILO_ROLES: Final[Mapping[str, str]] = {
    "iam:CreateRole": "silo-role@bounded",
    "iam:TagRole": "silo-role@tags",
    "iam:AttachRolePolicy iam:DetachRolePolicy": "silo-role@policy",
    "iam:DeleteRole iam:GetRole": "silo-role",
    "iam:ListRoles": "any",
    "iam:PassRole": "silo-role@handed",
}


def silo_targets(
    data: str, uploads: str, policy: str
) -> Iterator[tuple[str, str, str, dict[str, str | list[str]]]]:
    """Label, whose, resource and context of what a silo tenant's role reaches, of what lies near to
    that, and of such roles themselves."""
    for whose, keys in (("silo", _OWN), ("near", _NOT_OWN)):
        for label, found in keys.items():
            bucket = uploads if label == "uploads" else data
            for key in found:
                yield label, whose, f"{bucket}/{key}", {}
                if label in _LISTED:
                    # SageMaker lists below a key, or a part of it.
                    yield f"list:{label}", whose, data, {"s3:prefix": key}
    for label in _LISTED:
        yield f"list:{label}", "near", data, {"s3:prefix": f"{label}/"}
    roles = f"arn:aws:iam::{ACCOUNT}:role/tenantry/silo"
    role = f"{roles}/{REGION}/heating/{_HOME}-{REGION}"
    elsewhere = (
        f"arn:aws:iam::{ACCOUNT}:role/{_HOME}-{REGION}",
        f"{roles}/us-east-2/heating/{_HOME}",
        f"{roles}-2/{REGION}/heating/{_HOME}",
        f"arn:aws:iam::{ACCOUNT}:role/tenantry/{REGION}/heating/{_HOME}",
        f"arn:aws:iam::{ACCOUNT}:role/another/silo/{REGION}/heating/{_HOME}",
    )
    tags = ["tenant", "workload", "silo", "endpoint", "tenantry:tenant"]
    administrator = "arn:aws:iam::aws:policy/AdministratorAccess"
    named: dict[str, str | list[str]] = {"aws:RequestTag/tenant": "initech"}
    contexts: list[tuple[str, dict[str, str | list[str]]]] = [
        ("bare", {}),
        ("bare", {"aws:ResourceTag/tenantry:tenant": "initech"}),
        ("bounded", {"iam:PermissionsBoundary": policy}),
        ("unbounded", {"iam:PermissionsBoundary": administrator}),
        ("unbounded", {"iam:PermissionsBoundary": f"{policy}2"}),
        ("policy", {"iam:PolicyARN": policy}),
        ("another policy", {"iam:PolicyARN": administrator}),
        ("another policy", {"iam:PolicyARN": f"{policy}2"}),
        ("tags", {"aws:TagKeys": tags, **named}),
        ("another tag", {"aws:TagKeys": [*tags, "project"], **named}),
        ("no tenant", {"aws:TagKeys": tags[1:], "aws:RequestTag/workload": "heating"}),
        ("no tenant", {"aws:TagKeys": tags, "aws:RequestTag/tenant": ""}),
        ("handed", {"iam:PassedToService": "sagemaker.amazonaws.com"}),
        ("handed to another", {"iam:PassedToService": "ec2.amazonaws.com"}),
    ]
    for whose, context in contexts:
        yield "silo-role", whose, role, context
        for foreign in elsewhere:
            yield "foreign", "nobody", foreign, context
