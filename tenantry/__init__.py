"""The product: a machine-learning model for every tenant, on SageMaker. Nothing here imports
Dagster.

The names that an app needs to act for its tenants can be imported from here, as in ``from tenantry
import TenantClient`` (``docs/for-the-app.md``). A name is loaded when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment, DeploymentMissingError
    from tenantry.aws.objects import ObjectMissingError
    from tenantry.hosting.endpoints import EndpointFailedError
    from tenantry.hosting.invocation import InvocationRefusedError
    from tenantry.hosting.shapes.asynchronous import NotAsynchronousError
    from tenantry.hosting.shapes.catalogue import UnknownShapeError
    from tenantry.names.ids import InvalidIdError, model_name, tenant_id
    from tenantry.serving.asynchronous import ParkedError, Submitted
    from tenantry.serving.client import (
        AnswerUnreadableError,
        ArchiveDigestError,
        NoModelYetError,
        TenantClient,
    )
    from tenantry.workloads.schema import InvalidWorkloadError, Workload, read_workloads

__all__ = [
    "AnswerUnreadableError",
    "ArchiveDigestError",
    "Deployment",
    "DeploymentMissingError",
    "EndpointFailedError",
    "InvalidIdError",
    "InvalidWorkloadError",
    "InvocationRefusedError",
    "NoModelYetError",
    "NotAsynchronousError",
    "ObjectMissingError",
    "ParkedError",
    "Submitted",
    "TenantClient",
    "UnknownShapeError",
    "Workload",
    "model_name",
    "read_workloads",
    "tenant_id",
]

_WHERE: Final = {
    "AnswerUnreadableError": "tenantry.serving.client",
    "ArchiveDigestError": "tenantry.serving.client",
    "Deployment": "tenantry.aws.deployment",
    "DeploymentMissingError": "tenantry.aws.deployment",
    "EndpointFailedError": "tenantry.hosting.endpoints",
    "InvalidIdError": "tenantry.names.ids",
    "InvalidWorkloadError": "tenantry.workloads.schema",
    "InvocationRefusedError": "tenantry.hosting.invocation",
    "NoModelYetError": "tenantry.serving.client",
    "NotAsynchronousError": "tenantry.hosting.shapes.asynchronous",
    "ObjectMissingError": "tenantry.aws.objects",
    "ParkedError": "tenantry.serving.asynchronous",
    "Submitted": "tenantry.serving.asynchronous",
    "TenantClient": "tenantry.serving.client",
    "UnknownShapeError": "tenantry.hosting.shapes.catalogue",
    "Workload": "tenantry.workloads.schema",
    "read_workloads": "tenantry.workloads.schema",
    "model_name": "tenantry.names.ids",
    "tenant_id": "tenantry.names.ids",
}

# Importing any module of this package runs this file, and most modules need no client. A type
# checker reads the imports above, so that it reports an unknown name.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _WHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(_WHERE[name]), name)
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
