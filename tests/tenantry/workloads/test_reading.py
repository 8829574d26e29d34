"""A folder of workloads is read file by file, and errors name the line of a fault."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tenantry.workloads.folder import FOLDER
from tenantry.workloads.schema import InvalidWorkloadError, read_workload, read_workloads
from tests.tenantry.workloads.test_schema import GOOD, changed, written


def test_a_bad_file_keeps_no_other_from_being_read_and_never_looks_like_one_that_is_not_there(
    tmp_path: Path,
) -> None:
    with pytest.raises(InvalidWorkloadError, match="nothing to offer"):
        read_workloads(tmp_path)
    written(tmp_path, yaml.safe_dump(GOOD))
    assert list(read_workloads(tmp_path).all_readable()) == ["energy"]
    written(tmp_path, "name: x", "zebra.yaml")
    written(tmp_path, yaml.safe_dump(GOOD), "yak.yml")
    (tmp_path / "dangling.yaml").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.yaml").mkdir()
    written(tmp_path, "left by an editor", ".#energy.yaml")
    found = read_workloads(tmp_path)
    assert (list(found), len(found)) == (["energy"], 1)
    assert found.names == ["dangling", "energy", "folder", "yak", "zebra"]
    assert found["energy"].title == GOOD["title"]
    for ask in (found.get, found.__getitem__, found.__contains__):
        with pytest.raises(InvalidWorkloadError, match=r"zebra\.yaml:\n  line 1, title: is"):
            ask("zebra")
    assert "churn" not in found
    assert found.get("churn") is None
    assert "yak.yml: its name must end in .yaml; rename it" in found.unreadable["yak"]
    assert "dangling.yaml: cannot be read: No such file" in found.unreadable["dangling"]
    with pytest.raises(InvalidWorkloadError, match=r"(?s)dangling\.yaml.*zebra\.yaml"):
        found.all_readable()


def test_the_line_of_a_fault_is_told(tmp_path: Path) -> None:
    text = (FOLDER / "energy.yaml").read_text()
    for right, wrong in (
        ('cron: "0 19 * * 1-5"', 'cron: "0 25 * * 1-5"'),
        ("  metric: mase", "  metrics: mase"),
        ("  max_files: 4", "  max_files: none"),
    ):
        number = text[: text.index(right)].count("\n") + 1
        with pytest.raises(InvalidWorkloadError, match=rf"  line {number}, "):
            read_workload(written(tmp_path, text.replace(right, wrong)))


def test_a_field_that_stands_twice_is_refused_and_one_that_is_merged_is_not(tmp_path: Path) -> None:
    text = (FOLDER / "energy.yaml").read_text()
    (tier,) = [at for at, line in enumerate(text.splitlines(), 1) if line.startswith("tier:")]
    path = written(tmp_path, f"{text}tier: pool\n")
    with pytest.raises(
        InvalidWorkloadError,
        match=rf"^energy\.yaml: line {text.count(chr(10)) + 1}, tier: stands in line {tier} alread",
    ):
        read_workload(path)
    merged = text.replace("upload:\n", "upload:\n  <<: {max_files: 9, max_megabytes: 1}\n")
    assert read_workload(written(tmp_path, merged)).upload.max_files == 4


def test_where_no_container_is_installed_none_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app that has only a copy of the files can still ask questions."""
    path = written(tmp_path, yaml.safe_dump(changed("container", "churn")))
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert read_workload(path).container == "churn"
    (tmp_path / "containers" / "churn").mkdir(parents=True)
    (tmp_path / "containers" / "churn" / "checks.py").write_text("raise SystemExit('imported')")
    with pytest.raises(InvalidWorkloadError, match=r"no module containers\.forecast"):
        read_workload(path)
    document = changed("preparation", "containers.churn.checks") | {"container": "churn"}
    del document["drift"], document["moment"], document["imports"], document["upload"]["split"]
    assert read_workload(written(tmp_path, yaml.safe_dump(document))).container == "churn"


def test_a_variable_names_another_folder_of_workloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, yaml.safe_dump(GOOD | {"title": "Elsewhere"}))
    monkeypatch.setenv("TENANTRY_WORKLOADS", str(tmp_path))
    assert {name: workload.title for name, workload in read_workloads().items()} == {
        "energy": "Elsewhere"
    }
    monkeypatch.setenv("TENANTRY_WORKLOADS", "")
    assert "portraits" in read_workloads()


def test_a_folder_of_workloads_that_is_not_there_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed package has no such folder beside it."""
    monkeypatch.delenv("TENANTRY_WORKLOADS", raising=False)
    monkeypatch.setattr("tenantry.workloads.folder.FOLDER", tmp_path / "workloads")
    with pytest.raises(InvalidWorkloadError, match="set TENANTRY_WORKLOADS to the folder"):
        read_workloads()
