"""A workload as a component of Dagster: ``dg`` lists and checks it, and it equals the workload of a
separate file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import Definitions
from dagster.components.core.component_tree import ComponentTree

import orchestration
from orchestration.component import WorkloadComponent
from orchestration.jobs import jobs_of
from orchestration.workload_definitions import (
    known_warnings_left_out,
    resources,
    workload_definitions,
)
from tenantry.workloads.folder import FOLDER, FOLDER_VARIABLE
from tenantry.workloads.schema import InvalidWorkloadError, Workload, read_workload, read_workloads
from tests.conftest import ROOT

TYPE = "orchestration.Workload"
GOOD: dict[str, Any] = yaml.safe_load((FOLDER / "energy.yaml").read_text(encoding="utf-8"))
Dg = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with this one's settings and workloads, which tests may change."""
    settings = (ROOT / "pyproject.toml").read_text()
    (tmp_path / "pyproject.toml").write_text(settings[settings.index("[tool.dg]") :])
    (tmp_path / "workloads").mkdir()
    for path in FOLDER.glob("*.yaml"):
        (tmp_path / "workloads" / path.name).write_text(path.read_text())
    return tmp_path


def dg(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "NO_COLOR": "1",
        "PYTHONPATH": str(ROOT),
        FOLDER_VARIABLE: str(folder / "workloads"),
        "VIRTUAL_ENV": sys.prefix,
    }
    command = [str(Path(sys.executable).with_name("dg")), *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def component(folder: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> Path:
    """A copy of energy as a component."""
    (folder / "energy").mkdir(parents=True)
    document = {"type": TYPE, "attributes": json.loads(json.dumps(GOOD))}
    change(document)
    path = folder / "energy" / "defs.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def names(made: Definitions) -> dict[str, set[str]]:
    repository = made.get_repository_def()
    return {
        "assets": {key.to_user_string() for key in made.resolve_asset_graph().get_all_asset_keys()},
        "checks": {str(key) for key in made.resolve_asset_graph().asset_check_keys},
        "jobs": {job.name for job in repository.get_all_jobs()},
        "schedules": {schedule.name for schedule in repository.schedule_defs},
    }


def by_file(workload: Workload) -> dict[str, set[str]]:
    with known_warnings_left_out():
        made = workload_definitions(workload, jobs_of(workload))
    return names(Definitions.merge(made, Definitions(resources=resources())))


def test_dg_lists_it_and_finds_this_projects_definitions_in_order() -> None:
    listed = dg(ROOT, "list", "components", "--json")
    assert listed.returncode == 0, listed.stderr
    assert TYPE in {one["key"] for one in json.loads(listed.stdout)["items"]}
    checked = dg(ROOT, "check", "defs")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "All definitions loaded successfully" in checked.stdout


@pytest.mark.slow
def test_what_dg_scaffolds_can_be_used_and_dagsters_own_loader_takes_it(project: Path) -> None:
    made = dg(project, "scaffold", "defs", TYPE, "water")
    assert made.returncode == 0, made.stdout + made.stderr
    checked = dg(project, "check", "defs")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    read = read_workloads(project / "workloads").all_readable()
    assert sorted(read) == ["churn", "energy", "portraits", "water"]
    program = (
        "import json, pathlib, dagster\n"
        "defs = dagster.load_from_defs_folder(path_within_project=pathlib.Path('.').resolve())\n"
        "print(json.dumps(sorted(key.to_user_string() "
        "for key in defs.resolve_asset_graph().get_all_asset_keys())))\n"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program],
        cwd=project,
        env={**os.environ, "PYTHONPATH": f"{project}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(json.loads(loaded.stdout)) == by_file(read["water"])["assets"]


def test_dg_refuses_a_name_that_no_workload_can_have(project: Path) -> None:
    refused = dg(project, "scaffold", "defs", TYPE, "Churn_of_2026")
    assert refused.returncode != 0
    assert "must be at most 20 lower-case letters and digits" in refused.stdout + refused.stderr
    assert not list(project.glob("workloads/*/defs.yaml"))


def test_dg_check_defs_fails_for_a_bad_component_with_file_and_line(project: Path) -> None:
    for path in (project / "workloads").glob("*.yaml"):
        path.unlink()

    def spoil(document: dict[str, Any]) -> None:
        document["attributes"]["tire"] = document["attributes"].pop("tier")

    path = component(project / "workloads", spoil)
    (line,) = [
        number
        for number, text in enumerate(path.read_text().splitlines(), 1)
        if text.startswith("  tire:")
    ]
    checked = dg(project, "check", "defs")
    assert checked.returncode == 1
    assert f"energy/defs.yaml:{line} - {TYPE} attributes.tire" in checked.stdout


def test_dg_check_defs_fails_for_a_bad_file_that_is_no_component(project: Path) -> None:
    path = project / "workloads" / "energy.yaml"
    path.write_text(path.read_text().replace('cron: "15 2 ', 'cron: "15 26 '))
    checked = dg(project, "check", "defs")
    assert checked.returncode == 1
    assert "batches.0.cron: the cron expression '15 26 * * *' has the hour '26'" in (
        checked.stdout + checked.stderr
    )


def test_a_component_is_the_workload_that_its_file_would_be(tmp_path: Path) -> None:
    path = component(tmp_path)
    energy = read_workloads(FOLDER)["energy"]
    assert read_workload(path) == energy
    assert read_workloads(tmp_path)["energy"] == energy
    made = WorkloadComponent.from_attributes_dict(attributes=GOOD)
    built = made.build_defs(ComponentTree.for_test().load_context)
    assert names(built) == by_file(energy)
    assert WorkloadComponent.get_model_cls() is Workload


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            lambda document: document.update(type="tenantry.Workload"),
            rf"type: is 'tenantry.Workload'; it must be '{TYPE}'",
        ),
        (lambda document: document.pop("attributes"), "attributes: is missing; add it"),
        (
            lambda document: document.update(requirements={}),
            "requirements: there is no such field; remove it",
        ),
        (
            lambda document: document["attributes"].update(teir="pool"),
            r"line \d+, attributes.teir: there is no such field; did you mean tier\?",
        ),
        (
            lambda document: document["attributes"].update(name="power"),
            r"line \d+, name is 'power'; it must be the folder's, 'energy'",
        ),
        (
            lambda document: document["attributes"].update(image_tag="{{ env.TAG }}"),
            "attributes.image_tag: is '{{ env.TAG }}'; it must be at most 128",
        ),
    ],
    ids=["type", "attributes", "requirements", "field", "name", "template"],
)
def test_a_bad_component_is_told_with_file_line_and_cure(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], fault: str
) -> None:
    with pytest.raises(InvalidWorkloadError, match=rf"(?s)^energy/defs\.yaml:.*{fault}"):
        read_workload(component(tmp_path, change))


def test_a_workload_that_is_said_twice_is_left_out(tmp_path: Path) -> None:
    component(tmp_path)
    (tmp_path / "energy.yaml").write_text((FOLDER / "energy.yaml").read_text())
    found = read_workloads(tmp_path)
    assert list(found) == []
    assert "both energy.yaml and energy/defs.yaml" in found.unreadable["energy"]


def test_a_component_that_cannot_be_read_does_not_look_removed(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()  # no component
    for name, file in (("water", "defs.yaml"), ("energy", "defs.yml")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).symlink_to(tmp_path / "nowhere")
    found = read_workloads(tmp_path)
    assert found.names == ["energy", "water"]
    assert "water/defs.yaml: cannot be read" in found.unreadable["water"]
    assert "energy/defs.yml: its name must end in .yaml" in found.unreadable["energy"]


def test_the_package_offers_the_component_and_nothing_else() -> None:
    assert orchestration.Workload is WorkloadComponent
    assert "Workload" in dir(orchestration)
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        _ = orchestration.nothing_of_this_name


def test_without_attributes_dagster_is_told_what_is_missing() -> None:
    with pytest.raises(InvalidWorkloadError, match="attributes are missing"):
        WorkloadComponent.load(None, ComponentTree.for_test().load_context)
