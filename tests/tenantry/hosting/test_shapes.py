"""Hosting shapes: their requests to SageMaker, without one."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.aws.deployment import Deployment
from tenantry.aws.silo_roles import silo_role_arn
from tenantry.hosting.shapes.asynchronous import ASYNCHRONOUS, NotAsynchronousError
from tenantry.hosting.shapes.catalogue import SHAPES, UnknownShapeError, shape_named, shapes_of
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.hosting.shapes.shape import Shape
from tenantry.names import ids
from tenantry.names.tiers import Tier, machines_of
from tenantry.workloads.schema import read_workloads
from tenantry.workloads.sections import Asynchronous, Serving

ACME, VERSION = ids.tenant_id("acme"), ids.version_name("v1")
# Each output of the stack has its own name here, so that the tests notice a confusion.
OUTPUTS: Any = {
    field.name: field.name.replace("_", "-")
    for field in dataclasses.fields(Deployment)
    if field.default_factory is dataclasses.MISSING
}
SOMEWHERE = Deployment(**OUTPUTS)
PLAIN = read_workloads()["energy"].model_copy(
    update={
        "name": "energy",
        "container": "forecast",
        "image_tag": "1.2.3",
        "serving": Serving(
            instance_type="ml.c5.large", usd_per_hour=0.1, instances=3, smoke_request={}
        ),
    }
)
FULL = PLAIN.model_copy(
    update={
        "name": "portraits",
        "serving": Serving(
            instance_type="ml.g5.xlarge",
            usd_per_hour=1.4,
            instances=2,
            container="diffusion",
            ami_version="al2-ami-sagemaker-inference-gpu-2-1",
            environment={"TENANTRY_BASE": "tiny"},
            smoke_request={},
            asynchronous=Asynchronous(
                instance_type="ml.g5.2xlarge",
                usd_per_hour=1.5,
                instances=4,
                concurrent_per_instance=16,
            ),
        ),
    }
)
SILO = "silo-822b33ad87c148a0"


@pytest.mark.parametrize(
    ("shape", "workload", "tier", "endpoint", "model", "config"),
    [
        (MULTI_MODEL, PLAIN, "silo", f"energy-{SILO}", "ad50b357db", "94e5489f46"),
        (MULTI_MODEL, PLAIN, "bridge", "energy-bridge", "90de9b957a", "6b784eb26f"),
        (MULTI_MODEL, PLAIN, "pool", "energy-pool", "f2ce14448c", "0b8c7760b3"),
        (MULTI_MODEL, FULL, "silo", f"portraits-{SILO}", "dd84674413", "8f034becca"),
        (MULTI_MODEL, FULL, "bridge", "portraits-bridge", "e34b221906", "78dc17baa1"),
        (MULTI_MODEL, FULL, "pool", "portraits-pool", "22217d024e", "95a58af078"),
        (ASYNCHRONOUS, FULL, "silo", f"portraits-{SILO}-async", "cc1b1956d7", "6399d20a70"),
        (ASYNCHRONOUS, FULL, "bridge", "portraits-bridge-async", "30bce891e6", "4831fa8d07"),
        (ASYNCHRONOUS, FULL, "pool", "portraits-pool-async", "11fb1117a2", "ff511070cc"),
    ],
)
def test_models_and_configurations_keep_their_names(
    shape: Shape, workload: Any, tier: Tier, endpoint: str, model: str, config: str
) -> None:
    """A name contains a digest of the request; another digest would deploy every endpoint anew."""
    machines = machines_of(tier, ACME)
    name = shape.endpoint_name(SOMEWHERE.prefix, ids.workload_name(workload.name), machines)
    requests = shape.requests(SOMEWHERE, workload, machines)
    assert name == f"prefix-{endpoint}"
    assert requests.model["ModelName"] == f"{name}-{model}"
    assert requests.config["EndpointConfigName"] == f"{name}-{config}"
    (variant,) = requests.config["ProductionVariants"]
    assert variant["ModelName"] == f"{name}-{model}"
    assert variant["InitialInstanceCount"] == shape.instances(workload, machines.tier)


@pytest.mark.parametrize("tier", sorted(MULTI_MODEL.tiers | ASYNCHRONOUS.tiers))
def test_all_of_a_silo_tenant_bears_its_tag_and_runs_under_its_role(tier: Tier) -> None:
    own = {"Key": "tenantry:tenant", "Value": "acme"}
    roles = set()
    for shape in SHAPES.values():
        if tier not in shape.tiers or shape.name == "pipeline":
            continue
        serves = shape.route("one", ACME, VERSION)
        made = shape.requests(SOMEWHERE, FULL, machines_of(tier, ACME), [serves])
        for tags in (made.tags, made.config["Tags"], made.model.get("Tags", ())):
            assert (own in tags) == (tier == "silo")
        roles.add(made.model["ExecutionRoleArn"])
    of_acme = silo_role_arn(SOMEWHERE, ids.workload_name("portraits"), ACME)
    assert roles == ({of_acme} if tier == "silo" else {"serving-role", "async-role"})


def test_a_workload_has_the_shapes_that_its_file_says() -> None:
    assert shapes_of(PLAIN, "bridge") == [MULTI_MODEL]
    assert shapes_of(FULL, "bridge") == [MULTI_MODEL, ASYNCHRONOUS]
    with pytest.raises(NotAsynchronousError, match=r"add serving\.asynchronous to energy\.yaml"):
        ASYNCHRONOUS.requests(SOMEWHERE, PLAIN, machines_of("bridge", ACME))


@given(
    request=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3)
)
def test_each_shape_asks_for_the_routes_own_model(request: dict[str, Any]) -> None:
    at_once = MULTI_MODEL.address(MULTI_MODEL.route("one", ACME, VERSION), request)
    assert json.loads(at_once.body) == request
    assert at_once.arguments == {"TargetModel": "acme/v1.tar.gz"}
    record = ASYNCHRONOUS.record(ASYNCHRONOUS.route("one-async", ACME, VERSION), request)
    assert json.loads(record) == {"model": "acme/v1.tar.gz", "request": request}


@given(name=st.text(max_size=200).filter(lambda name: name not in SHAPES))
def test_a_name_that_no_shape_has_is_refused_with_a_cure(name: str) -> None:
    with pytest.raises(UnknownShapeError, match=r"bring it up to the release that wrote the row"):
        shape_named(name)


@pytest.mark.parametrize("shape", [MULTI_MODEL, ASYNCHRONOUS])
def test_a_shape_is_found_by_the_name_that_its_routes_have(shape: Shape) -> None:
    assert shape_named(shape.route("one", ACME, VERSION).shape) is shape
