"""The section ``hosting``: what each shape can serve, and what is refused with what would work."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tenantry.hosting.shapes.catalogue import SHAPES, real_time_shape
from tenantry.names.tiers import Tier
from tenantry.workloads.hosting import Hosting, Updates
from tenantry.workloads.hosting_rules import RULES, TIERS, hosting_fault, tables
from tenantry.workloads.hosting_rules import SHAPES as DESCRIBED
from tenantry.workloads.schema import InvalidWorkloadError, Workload, read_workload, read_workloads

ROOT = Path(__file__).resolve().parents[3]
ENERGY = yaml.safe_load((ROOT / "workloads/energy.yaml").read_text())
TYPES = ("ml.c5.large", "ml.g5.xlarge", "ml.g5.12xlarge", "ml.inf2.xlarge", "ml.g4dn.xlarge")


def read(folder: Path, hosting: Any, **serving: Any) -> Workload:
    """The energy workload with a section ``hosting`` and other fields of ``serving``."""
    document = copy.deepcopy(ENERGY)
    document["hosting"] = hosting
    document["serving"] |= serving
    file = folder / "energy.yaml"
    file.write_text(yaml.safe_dump(document))
    return read_workload(file)


def test_a_shape_is_named_alone_or_with_its_fields(tmp_path: Path) -> None:
    workload = read(
        tmp_path,
        {
            "silo": {"shape": "serverless", "memory_megabytes": 4096, "max_concurrency": 20},
            "bridge": "multi_model",
            "pool": "container_managed",
        },
    )
    assert [real_time_shape(workload, tier).name for tier in TIERS] == [
        "serverless",
        "multi_model",
        "container_managed",
    ]


def test_a_file_without_the_section_is_multi_model_as_before(tmp_path: Path) -> None:
    document = copy.deepcopy(ENERGY)
    del document["hosting"]
    file = tmp_path / "energy.yaml"
    file.write_text(yaml.safe_dump(document))
    workload = read_workload(file)
    assert {real_time_shape(workload, tier).name for tier in TIERS} == {"multi_model"}


@pytest.mark.parametrize(
    ("hosting", "serving", "says"),
    [
        ({"bridge": "serverless"}, {}, r"hosting\.bridge is serverless: .*serverless for silo"),
        ({"pool": "single_model"}, {}, r"hosting\.pool is single_model: .*choose multi_model"),
        ({}, {"instance_type": "ml.g5.xlarge"}, r"Triton .*choose container_managed"),
        (
            {"silo": "serverless"} | dict.fromkeys(("bridge", "pool"), "container_managed"),
            {"instance_type": "ml.g5.xlarge"},
            r"hosting\.silo is serverless: Serverless endpoints have no GPU",
        ),
        (
            {"silo": "serverless"},
            {"silo_capacity": {"minimum": 1, "maximum": 2}},
            r"remove serving\.silo_capacity",
        ),
        (
            {"silo": "serverless"},
            {"ami_version": "al2-ami-sagemaker-inference-gpu-2"},
            r"remove serving\.ami_version",
        ),
        (
            dict.fromkeys(TIERS, "container_managed"),
            {"instance_type": "ml.g4dn.xlarge", "gpu_gigabytes": 17},
            r"need 17 GB of GPU memory, and a GPU of ml\.g4dn\.xlarge has 16 GB .*larger GPU",
        ),
        ({"silo": {"shape": "pipeline"}}, {}, r"2 to 15 containers.*has 1"),
        (
            {"silo": {"shape": "serverless", "memory_megabytes": 1000}},
            {},
            r"memory_megabytes: is 1000; it must be 1024",
        ),
        (
            {"silo": {"shape": "serverless", "provisioned_concurrency": 6}},
            {},
            r"provisioned_concurrency is 6, above the max_concurrency of 5",
        ),
        (
            {"updates": {"strategy": "canary", "wait_seconds": 10}},
            {},
            r"wait_seconds is 10, and errors are counted by the minute",
        ),
        ({"updates": {"percent": 60}}, {}, r"percent: is 60; it must be 50 or less"),
        ({"silo": "on_the_moon"}, {}, r"on_the_moon.*'multi_model', 'single_model'"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason_and_what_would_work(
    tmp_path: Path, hosting: Any, serving: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidWorkloadError, match=says):
        read(tmp_path, hosting, **serving)


@given(
    shapes=st.fixed_dictionaries(
        dict.fromkeys(
            TIERS,
            st.sampled_from(("multi_model", "single_model", "serverless", "container_managed")),
        )
    ),
    instance_type=st.sampled_from(TYPES),
)
def test_what_the_rules_let_through_is_what_each_shape_can_serve(
    shapes: dict[str, str], instance_type: str
) -> None:
    energy = read_workloads()["energy"]
    serving = energy.serving.model_copy(update={"instance_type": instance_type})
    hosting = Hosting.model_validate(shapes)
    workload = energy.model_copy(update={"serving": serving, "hosting": hosting})
    if hosting_fault(workload) is None:
        for tier in TIERS:
            assert tier in SHAPES[shapes[tier]].tiers
            on_gpu = instance_type.startswith("ml.g")
            assert not (on_gpu and shapes[tier] in {"multi_model", "serverless"})
    else:
        refused = [
            tier for tier in TIERS if f"hosting.{tier} is " in (hosting_fault(workload) or "")
        ]
        assert len(refused) == 1


def test_each_rule_names_shapes_that_there_are_a_source_and_a_cure() -> None:
    for rule in RULES:
        assert rule.shapes <= DESCRIBED.keys()
        assert rule.says.endswith(".")
        assert rule.source
        assert rule.cure
    assert set(get_args(Tier)) == set(TIERS)


def test_only_what_is_said_about_updates_changes_them() -> None:
    assert not Updates().guarded
    assert Updates(wait_seconds=60).guarded


def test_the_page_has_the_tables_that_the_code_prints() -> None:
    """To update the page, put the output of `python -m tenantry.workloads hosting` there."""
    assert tables() in (ROOT / "docs/hosting.md").read_text()


def test_a_tier_that_the_table_names_is_one_that_the_shape_serves() -> None:
    first, _, _ = tables().partition("\n\n")
    rows = [line.strip("| ").split(" | ") for line in first.splitlines()[2:]]
    told = {name.strip("`"): set(tiers.split(", ")) for name, _, tiers in rows}
    assert told == {shape: set(SHAPES[shape].tiers) for shape in DESCRIBED}
