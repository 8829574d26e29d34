"""The section ``serving.batching``: it becomes variables of the containers that can use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tenantry.hosting.shapes.catalogue import SHAPES
from tenantry.names.tiers import machines_of
from tenantry.workloads.hosting_rules import TIERS
from tenantry.workloads.schema import InvalidWorkloadError, Workload, read_workload
from tests.tenantry.hosting.test_shapes import ACME, SOMEWHERE, VERSION
from tests.tenantry.workloads.test_schema import ASYNCHRONOUS, changed, written

BATCHING = {"max_batch": 8, "max_wait_ms": 5}
VARIABLES = {"TENANTRY_MAX_BATCH": "8", "TENANTRY_MAX_WAIT_MS": "5"}


@pytest.fixture(autouse=True)
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container ``together`` whose family takes batches."""
    folder = tmp_path / "containers" / "together"
    folder.mkdir(parents=True)
    (folder / "predictor.py").write_text("class P:\n    def predict_batch(self, questions): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))


def reading(folder: Path, **serving: Any) -> Workload:
    """The energy workload, served in batches by ``together``, with these fields of ``serving``."""
    document = changed("serving.container", "together")
    document["serving"] |= {"batching": BATCHING, **serving}
    return read_workload(written(folder, yaml.safe_dump(document)))


def containers(made: Any) -> list[Any]:
    model = made.model
    return [model["PrimaryContainer"]] if "PrimaryContainer" in model else model["Containers"]


def test_every_shape_with_instances_gives_its_containers_the_variables(tmp_path: Path) -> None:
    workload = reading(tmp_path, asynchronous=ASYNCHRONOUS, environment={"OTHER": "1"})
    silent = reading(tmp_path, asynchronous=ASYNCHRONOUS, batching=None)
    seen = set()
    for name, shape in SHAPES.items():
        for tier in set(TIERS) & shape.tiers:
            if name in {"serverless", "pipeline"}:  # refused; its section is the test below
                continue
            serves = [shape.route("one", ACME, VERSION)]
            for one in containers(
                shape.requests(SOMEWHERE, workload, machines_of(tier, ACME), serves)
            ):
                assert one["Environment"].items() >= {**VARIABLES, "OTHER": "1"}.items()
            for one in containers(
                shape.requests(SOMEWHERE, silent, machines_of(tier, ACME), serves)
            ):
                assert not one["Environment"].keys() & VARIABLES.keys()
            seen.add(name)
    assert seen >= {"multi_model", "single_model", "container_managed", "asynchronous"}
    assert workload.endpoint_version != silent.endpoint_version
    assert workload.answer_version != silent.answer_version, "OTHER may change an answer"


def test_only_the_models_own_container_of_a_pipeline_gathers(tmp_path: Path) -> None:
    document = changed("serving.container", "together")
    document["serving"]["batching"] = BATCHING
    beside = {"container": "forecast", "image_tag": "1"}
    document["hosting"]["bridge"] = {"shape": "pipeline", "before": [beside]}
    workload = read_workload(written(tmp_path, yaml.safe_dump(document)))
    made = SHAPES["pipeline"].requests(SOMEWHERE, workload, machines_of("bridge", ACME))
    gathers = [one["Environment"].items() >= VARIABLES.items() for one in containers(made)]
    assert gathers == [False, True]


def test_the_wait_may_be_left_out(tmp_path: Path) -> None:
    workload = reading(tmp_path, batching={"max_batch": 2})
    assert workload.serving.variables == {"TENANTRY_MAX_BATCH": "2", "TENANTRY_MAX_WAIT_MS": "0"}


@pytest.mark.parametrize(
    ("serving", "says"),
    [
        ({"batching": {"max_batch": 1}}, r"max_batch: is 1; it must be 2 or more"),
        ({"batching": {"max_batch": 1025}}, r"max_batch: is 1025; it must be 1024 or less"),
        ({"batching": {"max_wait_ms": 5}}, r"serving\.batching\.max_batch"),
        ({"batching": {**BATCHING, "max_wait_ms": 1001}}, r"max_wait_ms: is 1001; it must be 1000"),
        ({"batching": {**BATCHING, "max_wait_ms": 0.5}}, r"max_wait_ms: is 0\.5"),
        ({"batching": {**BATCHING, "max_wait": 5}}, r"did you mean max_wait_ms\?"),
        (
            {"environment": {"TENANTRY_MAX_BATCH": "4"}},
            r"TENANTRY_MAX_BATCH is what serving\.batching sets; say it there",
        ),
        (
            {"container": "forecast"},
            r"no module of containers/forecast defines predict_batch; .*; remove batching",
        ),
        ({"container": "diffusion"}, r"batches by itself has variables of its own"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(
    tmp_path: Path, serving: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidWorkloadError, match=says):
        reading(tmp_path, **serving)


def test_a_serverless_endpoint_has_no_batches(tmp_path: Path) -> None:
    document = changed("hosting.silo", "serverless")
    document["serving"] |= {"container": "together", "batching": BATCHING}
    with pytest.raises(InvalidWorkloadError, match=r"remove serving\.batching, or choose single"):
        read_workload(written(tmp_path, yaml.safe_dump(document)))
