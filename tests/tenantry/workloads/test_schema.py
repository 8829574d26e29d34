"""A workload's YAML file is read completely, or the error names the file, the field and the
fault."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import AssetKey
from dagster._core.definitions.utils import validate_asset_owner
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from tenantry.aws.deployment import Deployment
from tenantry.hosting.shapes.catalogue import shapes_of
from tenantry.names import ids
from tenantry.names.tiers import Own, Shared
from tenantry.workloads.fields import IN_WORDS, Owner
from tenantry.workloads.folder import FOLDER
from tenantry.workloads.instance_types import multi_model_fault
from tenantry.workloads.schema import InvalidWorkloadError, Workload, read_workload, read_workloads
from tenantry.workloads.sections import Cache, Quality
from tests.conftest import ROOT

GOOD: dict[str, Any] = yaml.safe_load((FOLDER / "energy.yaml").read_text(encoding="utf-8"))
ASYNCHRONOUS = {"instance_type": "ml.g5.xlarge", "usd_per_hour": 1.4, "instances": 1}
Change = Callable[[dict[str, Any]], None]


def changed(where: str, value: Any) -> dict[str, Any]:
    """The energy workload with one field changed, or left out where ``value`` is ...."""
    document = copy.deepcopy(GOOD)
    *path, last = where.split(".")
    section: Any = document
    for name in path:
        section = section[int(name)] if isinstance(section, list) else section[name]
    if value is ...:
        del section[last]
    else:
        section[int(last) if isinstance(section, list) else last] = value
    return document


def written(folder: Path, text: str | bytes, name: str = "energy.yaml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal_of(folder: Path, where: str, value: Any) -> str:
    """The words in which a file with one field changed is refused; they name the file and a
    line."""
    path = written(folder, yaml.safe_dump(changed(where, value)))
    with pytest.raises(InvalidWorkloadError) as refused:
        read_workload(path)
    assert str(refused.value).startswith("energy.yaml:\n  line ")
    return str(refused.value)


def test_every_workload_of_the_product_is_read() -> None:
    workloads = read_workloads()
    energy = workloads["energy"]
    assert energy.upload.max_bytes == 64 * 1024 * 1024
    assert energy.upload.file_types == ("csv", "parquet")
    assert energy.tier == "bridge"
    assert energy.quality.baseline == "baseline_mase"
    assert energy.serving.capacity is not None
    assert [one.name for one in energy.serving.capacity.timetable] == ["business_hours", "night"]


@pytest.mark.parametrize(
    ("where", "value", "field"),
    [
        ("tier", "platinum", "tier"),
        ("tier", ..., "tier"),
        ("colour", "red", "colour"),
        ("name", "Energy", "name"),
        ("image_tag", "a b", "image_tag"),
        ("container", "../forecast", "container"),
        ("container", "forcast", "container: there is no folder containers/forcast; make it, or"),
        ("preparation", "os.path", "preparation: is 'os.path'; it must be a Python module below"),
        (
            "preparation",
            "containers.forecast.consumption.preparations",
            "preparations; did you mean containers.forecast.consumption.preparation?",
        ),
        (
            "preparation",
            "containers.forecast.preparation.late",
            "preparation: there is no module containers.forecast.preparation",
        ),
        ("preparation", "containers.churn", "preparation: there is no module containers.churn"),
        ("owners", ["energy"], "owners.0: is 'energy'; it must be an e-mail address, or team:"),
        ("owners", ["team:"], "owners.0"),
        ("owners", "team:energy", "owners"),
        ("kinds", ["pandas"], "kinds: there is no such field"),
        ("assets.fleet", {"kinds": ["a kind"]}, "assets.fleet.kinds.0"),
        ("assets.fleet", {"kinds": ["a", "b", "c", "d"]}, "at most 3"),
        ("assets.flet", {}, "assets.flet: is 'flet'; it must be 'uploads'"),
        (
            "assets.fleet",
            {"figures": {"rows": {"unit": "kWh"}}},
            "figures.rows.description: is missing",
        ),
        ("assets.fleet", {"columns": {"rows": {"type": " "}}}, "columns.rows.type"),
        ("title", " ", "title: is ' '; it must be some words"),
        ("colours", "red", "colours: there is no such field; remove it"),
        ("teir", "pool", "teir: there is no such field; did you mean tier?"),
        (
            "serving.capacity.timetable.0.crn",
            "0 7 * * *",
            "serving.capacity.timetable.0.crn: there is no such field; did you mean cron?",
        ),
        (
            "upload.parameters.timezone.typ",
            "string",
            "upload.parameters.timezone.typ: there is no such field; did you mean type?",
        ),
        ("upload.max_files", 0, "upload.max_files"),
        ("upload.max_files", "many", "upload.max_files"),
        ("upload.file_types", [], "upload.file_types"),
        ("upload.file_types", [".csv"], "upload.file_types.0"),
        ("upload.file_types", ["CSV"], "upload.file_types.0"),
        ("upload.parameters.timezone", {"type": "text"}, "upload.parameters.timezone.type"),
        (
            "upload.parameters.timezone",
            {"type": "integer", "default": "UTC"},
            "upload.parameters.timezone",
        ),
        (
            "upload.parameters.timezone",
            {"type": "number", "default": True},
            "upload.parameters.timezone",
        ),
        (
            "upload.parameters.timezone",
            {"type": "string", "default": "x" * 9, "max_characters": 8},
            "upload.parameters.timezone",
        ),
        ("training.instance_type", "c5.xlarge", "training.instance_type"),
        ("training.max_seconds", 5, "training.max_seconds"),
        ("training.attempts", 0, "training.attempts"),
        ("training.spot", True, "training: max_wait_seconds must be at least max_seconds"),
        ("training.max_wait_seconds", 7200, "training: max_wait_seconds is for spot machines only"),
        ("training.other_instance_types", {"m5.xlarge": 0.2}, "training.other_instance_types"),
        ("training.other_instance_types", {"ml.m5.xlarge": -1}, "training.other_instance_types"),
        (
            "training.other_instance_types",
            {"ml.c5.xlarge": 0.2},
            "training: other_instance_types names ml.c5.xlarge",
        ),
        ("training.keep_alive_seconds", 21_601, "training.keep_alive_seconds"),
        ("training.deadline_seconds", 0, "training.deadline_seconds"),
        ("training.hyperparameters", {"frequency": 1}, "training.hyperparameters.frequency"),
        ("training.pack.max_tenants", 0, "training.pack.max_tenants"),
        ("training.pack.max_tenants", 201, "training.pack.max_tenants is more than"),
        ("training.pack.wait_seconds", float("nan"), "training.pack.wait_seconds"),
        ("quality.tolerance", 5, "quality.tolerance"),
        ("quality.metric", ..., "quality.metric"),
        ("serving.instances", 0, "serving.instances"),
        ("serving.capacity.timetable.0.cron", "at seven", "serving.capacity.timetable.0.cron"),
        (
            "serving.capacity.timetable.0.timezone",
            "Europe/Lodon",
            "serving.capacity.timetable.0.timezone",
        ),
        (
            "serving.capacity.timetable.0.timezone",
            "../UTC",
            "serving.capacity.timetable.0.timezone",
        ),
        ("serving.capacity.timetable.1.name", "business_hours", "serving.capacity"),
        ("batches.0.timezone", "", "batches.0.timezone"),
        ("batches.0.request", [1], "batches.0.request"),
        (
            "batches.0.request",
            {"start": date(2026, 1, 1)},
            "batches.0.request: start is 2026-01-01, which",
        ),
        ("serving.smoke_request", {"period": float("inf")}, "serving.smoke_request: period is inf"),
        ("serving.environment", {"a b": "1"}, "serving.environment: 'a b' is no name of a"),
        ("serving.environment", {"A": "x" * 1025}, "serving.environment: A has 1025 characters"),
        ("serving.usd_per_hour", float("inf"), "serving.usd_per_hour: is inf; it must be a number"),
        ("training.data_distribution", "ShardedByRecord", "training.data_distribution: is"),
        ("training.hyperparameters", {"a": "x" * 2501}, "training.hyperparameters: a has 2501"),
        ("training.hyperparameters", {"": "x"}, "training.hyperparameters: the name ''"),
        (
            "training.hyperparameters",
            {str(number): "x" for number in range(101)},
            "training.hyperparameters: there are 101 of them",
        ),
        (
            "batches.0.cron",
            "15 26 * * *",
            "batches.0.cron: the cron expression '15 26 * * *' has the hour '26': it takes",
        ),
        ("retraining.timezone", "Europe/Lodon", "retraining.timezone: 'Europe/Lodon' is no IANA"),
        ("moment.module", "containers.forecast.starts", "moment.module: there is no module"),
        ("batch", None, "batch"),
        ("retraining.cron", "nightly", "retraining.cron"),
        ("retraining.older_than_days", 0, "retraining.older_than_days"),
        (
            "retraining",
            {"cron": "0 1 * * *", "when_made_otherwise": False},
            "retraining: nothing would ever be re-trained",
        ),
        ("drift.module", "os.path", "drift.module"),
        ("drift.module", "containers.forecast.serving.drfit", "drift.module: there is no module"),
        ("drift.tolerance", -0.1, "drift.tolerance"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_field_is_named_with_its_file(
    tmp_path: Path, where: str, value: Any, field: str
) -> None:
    words = refusal_of(tmp_path, where, value)
    assert field in words
    assert "^" not in words, "patterns are said in words"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"", "must be a mapping"),
        (b"- name: energy", "must be a mapping"),
        (b"name: [", "not valid YAML: line 1, column 8: .*; mend this line or the one before it"),
        (b"name: a\n\ttitle: b", "not valid YAML: line 2, column 1: .*; indent with blanks"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"name: !!python/object/apply:os.getcwd []", "not valid YAML"),
        (b"name: 2001-99-99", "not valid YAML"),
        (b"[" * 30_000, "not valid YAML"),
        (b"# " + b"x" * 65_536, "larger than 65536 bytes"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_file_that_is_no_workload_is_named(tmp_path: Path, text: bytes, fault: str) -> None:
    with pytest.raises(InvalidWorkloadError, match=rf"energy\.yaml: {fault}"):
        read_workload(written(tmp_path, text))


@given(text=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_whatever_the_file_holds_it_is_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, text: bytes
) -> None:
    path = written(tmp_path_factory.getbasetemp(), text)
    with pytest.raises(InvalidWorkloadError, match=r"^energy\.yaml:\s"):
        read_workload(path)


def test_a_shared_models_data_all_lie_on_its_instance(tmp_path: Path) -> None:
    text = (FOLDER / "churn.yaml").read_text(encoding="utf-8")

    def with_distribution(said: str) -> Path:
        changed = text.replace("\ntraining:\n", f"\ntraining:\n  data_distribution: {said}\n")
        return written(tmp_path, changed, "churn.yaml")

    assert read_workload(with_distribution("FullyReplicated")).shared_model is not None
    with pytest.raises(InvalidWorkloadError, match=r"a shared model .*write FullyReplicated"):
        read_workload(with_distribution("ShardedByS3Key"))


def test_the_recipe_changes_with_what_makes_another_model_of_the_same_data_and_with_nothing_else(
    tmp_path: Path,
) -> None:
    def recipe(where: str, value: Any) -> str:
        return read_workload(written(tmp_path, yaml.safe_dump(changed(where, value)))).recipe

    now = read_workload(FOLDER / "energy.yaml").recipe
    makers = [
        ("image_tag", "0.2.0"),
        ("container", "diffusion"),
        ("training.hyperparameters", {"frequency": "D"}),
    ]
    assert len({now, *(recipe(*change) for change in makers)}) == 4
    others = [
        ("training.max_seconds", 7200),
        ("serving.instances", 2),
        ("quality.tolerance", 0.2),
        ("title", "Other"),
    ]
    assert {recipe(*change) for change in others} == {now}


def test_a_workload_bears_its_files_name(tmp_path: Path) -> None:
    path = written(tmp_path, yaml.safe_dump(GOOD), "power.yaml")
    with pytest.raises(
        InvalidWorkloadError, match=r"power\.yaml: line \d+, name is 'energy'; it must be"
    ):
        read_workload(path)


@given(st.text(max_size=12) | st.emails() | st.text(max_size=8).map("team:{}".format))
def test_an_owner_that_is_taken_is_one_that_dagster_takes(owner: str) -> None:
    try:
        TypeAdapter(Owner).validate_python(owner)
    except ValidationError:
        return
    validate_asset_owner(owner, AssetKey("a"))


def test_every_pattern_has_its_words() -> None:
    def patterns(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            if isinstance(part.get("pattern"), str):
                yield part["pattern"]
            part = list(part.values())
        if isinstance(part, list):
            for one in part:
                yield from patterns(one)

    found = set(patterns(Workload.model_json_schema()))
    assert len(found) > 5
    assert found <= IN_WORDS.keys()


def test_the_endpoint_version_changes_with_what_an_endpoint_is_made_of_and_with_nothing_else(
    tmp_path: Path,
) -> None:
    def version(where: str, value: Any) -> str:
        return read_workload(
            written(tmp_path, yaml.safe_dump(changed(where, value)))
        ).endpoint_version

    before = version("title", GOOD["title"])
    assert version("title", "Another") == before
    assert version("serving.capacity", ...) == before
    assert version("image_tag", "0.2.0") != before
    assert version("serving.instance_type", "ml.c5.4xlarge") != before
    assert version("serving.environment", {"TENANTRY_EVICT": "lru"}) != before
    assert version("serving.cache", {"enabled": True}) == before
    assert version("serving.asynchronous", ASYNCHRONOUS) != before
    assert version("serving.container", "forecast-on-gpu") != before
    assert version("serving.container", GOOD["container"]) == before
    assert version("serving.ami_version", "al2-ami-sagemaker-inference-gpu-2-1") != before


def test_the_answer_version_changes_with_what_answers_and_not_with_the_machines_under_it(
    tmp_path: Path,
) -> None:
    def version(where: str, value: Any) -> str:
        return read_workload(
            written(tmp_path, yaml.safe_dump(changed(where, value)))
        ).answer_version

    before = version("title", GOOD["title"])
    assert version("serving.instance_type", "ml.c5.4xlarge") == before
    assert version("serving.instances", 3) == before
    assert version("serving.asynchronous", ASYNCHRONOUS) == before
    assert version("serving.container", GOOD["container"]) == before
    assert version("image_tag", "0.2.0") != before
    assert version("serving.environment", {"TENANTRY_EVICT": "lru"}) != before
    assert version("serving.container", "forecast-on-gpu") != before


FOR_PEOPLE = {"usd_per_hour", "other_instance_types", "title", "description", "owners"}
NAMES: Any = {
    field.name: "of-no-cloud"
    for field in dataclasses.fields(Deployment)
    if field.default_factory is dataclasses.MISSING
}
SOMEWHERE = Deployment(**NAMES)


def leaves(section: BaseModel, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every field of a workload that is not itself a section, with its value."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), value


def another(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case Mapping():
            return {**value, "another": "1"}
        case tuple():
            return value[:-1] if value else ("another",)
        case None:
            return "another"
        case _:
            return f"{value}-another"


def with_leaf(section: Any, path: tuple[str, ...], value: Any) -> Any:
    """A copy with one field changed, without checks, because only the effect matters here."""
    name, *rest = path
    return section.model_copy(
        update={name: with_leaf(getattr(section, name), tuple(rest), value) if rest else value}
    )


@pytest.mark.parametrize("name", ["energy", "portraits"])
def test_versions_change_with_every_field_that_reaches_sagemaker_and_with_no_price_or_word(
    name: str,
) -> None:
    workload = read_workloads()[name]

    def requests(of: Workload) -> list[Any]:
        own, acme = Own(ids.tenant_id("acme")), ids.tenant_id("acme")
        asked = [
            (shape, machines)
            for machines in (Shared("bridge"), Shared("pool"), own)
            for shape in shapes_of(of, machines.tier)
        ]
        version = ids.version_name("v1")
        return [
            shape.requests(SOMEWHERE, of, machines, [shape.route("e", acme, version)])
            for shape, machines in asked
        ]

    reached, kept = set(), set()
    for path, value in leaves(workload):
        sections = {("serving", "asynchronous"), ("serving", "batching"), ("hosting", "shadow")}
        if path == ("name",) or path in sections or path[-1] == "shape":
            continue
        other = with_leaf(workload, path, another(value))
        versions = (other.endpoint_version, other.recipe)
        if path[-1] in FOR_PEOPLE or (path[0], path[-1]) == ("upload", "parameters"):
            assert versions == (workload.endpoint_version, workload.recipe), path
            kept.add(path[-1])
        elif requests(other) != requests(workload):
            assert other.endpoint_version != workload.endpoint_version, path
            reached.add(path[-1])
    assert {"image_tag", "instance_type", "instances", "environment", "ami_version"} <= reached
    assert {"usd_per_hour", "title", "description", "owners", "other_instance_types"} <= kept


@pytest.mark.parametrize(
    "instance_type",
    [
        "ml.inf1.xlarge",
        "ml.inf2.xlarge",
        "ml.trn1.2xlarge",
        "ml.g5.12xlarge",
        "ml.g6.xlarge",
        "ml.p4d.24xlarge",
        "ml.p5.48xlarge",
    ],
)
def test_an_endpoint_on_a_machine_that_cannot_be_multi_model_is_refused_with_what_would_work(
    tmp_path: Path, instance_type: str
) -> None:
    document = yaml.safe_dump(changed("serving.instance_type", instance_type))
    with pytest.raises(
        InvalidWorkloadError,
        match=rf"hosting\.bridge is multi_model: {instance_type} cannot be multi-model.*; choose",
    ):
        read_workload(written(tmp_path, document))
    elsewhere = changed("serving.asynchronous", ASYNCHRONOUS | {"instance_type": instance_type})
    elsewhere["batches"][0]["instance_type"] = elsewhere["training"]["instance_type"] = (
        instance_type
    )
    read_workload(written(tmp_path, yaml.safe_dump(elsewhere)))


@pytest.mark.parametrize(
    "instance_type",
    ["ml.c5.large", "ml.m6g.large", "ml.r7i.xlarge", "ml.t2.medium", "ml.inf-like.large"],
)
def test_a_multi_model_endpoint_may_be_on_any_cpu(tmp_path: Path, instance_type: str) -> None:
    document = yaml.safe_dump(changed("serving.instance_type", instance_type))
    assert read_workload(written(tmp_path, document)).serving.instance_type == instance_type


def test_no_recipe_of_the_docs_is_refused_for_its_machine() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = [
        (page.name, named)
        for page in pages
        for named in re.findall(
            r"\bserving:\s*\{[^}]*?\binstance_type:\s*(ml\.[a-z0-9.-]+)", page.read_text()
        )
    ]
    assert found, "a page shows how to choose the machine"
    assert not [(page, fault) for page, named in found if (fault := multi_model_fault(named))]


def test_serving_has_the_workloads_container_unless_it_names_its_own(tmp_path: Path) -> None:
    def container(value: Any) -> str:
        return read_workload(
            written(tmp_path, yaml.safe_dump(changed("serving.container", value)))
        ).serving_container

    assert container(None) == GOOD["container"]
    assert container("forecast-on-gpu") == "forecast-on-gpu"
    with pytest.raises(InvalidWorkloadError, match=r"serving\.container"):
        container("registry/forecast:1")


def test_an_answer_is_kept_when_the_cache_is_on_and_the_request_says_all_that_repeats_it() -> None:
    assert not Cache().takes({"seed": 1})
    assert Cache(enabled=True).takes({})
    seeded = Cache(enabled=True, repeatable_with=("seed", "steps"))
    assert seeded.takes({"seed": 0, "steps": 3, "prompt": "a kite"})
    assert not seeded.takes({"seed": 0})
    assert not seeded.takes({"seed": None, "steps": 3})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("concurrent_per_instance", 1001),
        ("max_seconds", 3601),
        ("queue_seconds", 21_601),
        ("queue_seconds", 59),
        ("instances", 0),
        ("instance_type", "g5.xlarge"),
    ],
)
def test_an_asynchronous_endpoint_beyond_what_the_api_takes_is_refused(
    tmp_path: Path, field: str, value: Any
) -> None:
    document = changed("serving.asynchronous", ASYNCHRONOUS | {field: value})
    with pytest.raises(InvalidWorkloadError, match=rf"serving\.asynchronous\.{field}"):
        read_workload(written(tmp_path, yaml.safe_dump(document)))
    good = read_workload(
        written(tmp_path, yaml.safe_dump(changed("serving.asynchronous", ASYNCHRONOUS)))
    )
    assert good.serving.asynchronous is not None
    assert good.serving.asynchronous.max_seconds == 900


def quality(*, baseline: str | None = "baseline", lower: bool = True) -> Quality:
    return Quality(metric="score", baseline=baseline, lower_is_better=lower, tolerance=0.0)


def test_skill_is_the_share_of_the_baseline_and_lower_is_better_whatever_the_metric() -> None:
    assert quality().skill({"score": 0.5, "baseline": 2.0}) == 0.25
    assert quality(baseline=None).skill({"score": 0.5}) == 0.5
    higher = quality(lower=False)
    better, worse = (
        higher.skill({"score": 0.9, "baseline": 0.5}),
        higher.skill({"score": 0.6, "baseline": 0.5}),
    )
    assert better is not None
    assert worse is not None
    assert better < worse


@pytest.mark.parametrize(
    "metrics",
    [{}, {"score": 1.0}, {"baseline": 1.0}, {"score": 1.0, "baseline": 0.0}],
    ids=lambda metrics: str(metrics),
)
def test_without_score_or_baseline_there_is_no_skill(metrics: dict[str, float]) -> None:
    assert quality().skill(metrics) is None


def test_a_requirement_holds_in_the_metrics_own_direction() -> None:
    lower = quality(baseline=None).model_copy(update={"required": 0.5})
    higher = quality(baseline=None, lower=False).model_copy(update={"required": 0.5})
    assert [lower.suffices({"score": score}) for score in (0.4, 0.5, 0.6)] == [True, True, False]
    assert [higher.suffices({"score": score}) for score in (0.4, 0.5, 0.6)] == [False, True, True]
    assert not higher.suffices({})
    assert quality().suffices({})
    assert higher.verdict({"score": 0.6}) == (True, {"score": 0.6, "required": 0.5})
    assert quality().verdict({"score": 0.5, "baseline": 2.0}) == (
        True,
        {"score": 0.5, "baseline": 2.0},
    )
    assert quality().verdict({"score": 0.5}) is None
    assert quality(baseline=None).verdict({"score": 0.5}) is None
    assert (higher.compared, higher.shown(-0.6)) == ("score", 0.6)
    assert (quality().compared, quality().shown(0.25)) == ("share_of_baseline", 0.25)
