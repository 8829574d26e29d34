"""``serving.batching`` is changed in a workload's file, and all else stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry.workloads.batching import Batching
from tenantry.workloads.edits import NotEditedError, set_batching
from tenantry.workloads.folder import FOLDER

ENERGY = (FOLDER / "energy.yaml").read_text()
SETTINGS = st.builds(
    Batching, max_batch=st.integers(2, 1024), max_wait_ms=st.sampled_from([0, 5, 1000])
)
EIGHT = Batching(max_batch=8, max_wait_ms=2)
LINE = "batching: {max_batch: 8, max_wait_ms: 2}"


def written(folder: Path, text: str, name: str = "energy.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("edits")


@settings(max_examples=15)
@given(changes=st.lists(SETTINGS | st.none(), min_size=1, max_size=5))
def test_any_sequence_of_settings_leaves_the_last_one_and_all_other_lines(
    folder: Path, changes: list[Batching | None]
) -> None:
    path, now = written(folder, ENERGY), None
    for setting in changes:
        assert set_batching(path, setting) == (setting != now)
        now = setting
    text = path.read_text()
    others = [line for line in text.splitlines(keepends=True) if "batching:" not in line]
    assert "".join(others) == ENERGY
    found = yaml.safe_load(text)["serving"].get("batching")
    assert found == (None if now is None else now.model_dump())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "serving:\n  # machines\n  instances: 1 # one\n  # next\n  cache: {}\n",
            f"serving:\n  # machines\n  instances: 1 # one\n  {LINE}\n  # next\n  cache: {{}}\n",
        ),
        ("serving:\n    instances: 1", f"serving:\n    instances: 1\n    {LINE}"),
        (
            "serving:\r\n  instances: 1\r\nbatch: {}\r\n",
            f"serving:\r\n  instances: 1\r\n  {LINE}\r\nbatch: {{}}\r\n",
        ),
        (
            "serving: {instances: 1, cache: {}} # short\n",
            f"serving: {{instances: 1, {LINE}, cache: {{}}}} # short\n",
        ),
        (
            "serving:\n  instances: 1\n  batching: {max_batch: 4} # measured\n",
            "serving:\n  instances: 1\n  batching: {max_batch: 8, max_wait_ms: 2} # measured\n",
        ),
        (
            "serving:\n  batching:\n    max_batch: 4 # a\n    max_wait_ms: 1 # b\n  instances: 1\n",
            "serving:\n  batching:\n    max_batch: 8 # a\n    max_wait_ms: 2 # b\n  instances: 1\n",
        ),
        (
            "serving:\n  batching:\n    max_batch: 4 # a\n  instances: 1\n",
            "serving:\n  batching:\n    max_wait_ms: 2\n    max_batch: 8 # a\n  instances: 1\n",
        ),
        (
            "serving:\n  batching: null # none yet\n  instances: 1\n",
            f"serving:\n  {LINE} # none yet\n  instances: 1\n",
        ),
        ("serving:\n  batching: &b {max_batch: 4}\n  instances: 1\n", None),
    ],
)
def test_a_setting_is_written_into_files_of_any_style(
    tmp_path: Path, before: str, after: str | None
) -> None:
    path = written(tmp_path, before)
    path.chmod(0o640)
    assert set_batching(path, EIGHT)
    expected = before.replace("4}", "8, max_wait_ms: 2}") if after is None else after
    assert path.read_bytes() == expected.encode()
    assert path.stat().st_mode & 0o777 == 0o640
    assert not set_batching(path, EIGHT), "the second time there is nothing to change"


@pytest.mark.parametrize(
    "batching",
    ["  batching: {max_batch: 4} # gone\n", "  batching:\n    max_batch: 4\n    max_wait_ms: 1\n"],
)
def test_a_setting_is_removed_with_its_lines_alone(tmp_path: Path, batching: str) -> None:
    path = written(tmp_path, f"serving:\n  instances: 1 # one\n{batching}  # next\n  cache: {{}}\n")
    assert set_batching(path, None)
    assert path.read_text() == "serving:\n  instances: 1 # one\n  # next\n  cache: {}\n"
    assert not set_batching(path, None)


def test_a_component_of_dagster_is_changed_below_its_attributes(tmp_path: Path) -> None:
    text = "type: orchestration.Workload\nattributes:\n  serving:\n    instances: 1\n  batch: {}\n"
    path = written(tmp_path, text, "water/defs.yaml")
    assert set_batching(path, EIGHT)
    assert path.read_text() == text.replace(": 1\n", f": 1\n    {LINE}\n")


@pytest.mark.parametrize(
    "text",
    [
        "serving: [1, 2]\n",
        "name: energy\n",
        "serving:\n  instances: 1\n serving: {\n",
        "shared: &shared\n  instances: 1\nserving: *shared\n",
        "base: &base {max_batch: 4}\nother: *base\nserving:\n  instances: 1\n  batching: *base\n",
        "serving: {instances: 1, batching: {max_batch: 1}}\n",
    ],
    ids=["no mapping", "no section", "no YAML", "shared section", "shared setting", "invalid"],
)
def test_a_file_that_cannot_be_changed_safely_stays_as_it_is(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(NotEditedError, match=r"energy\.yaml: "):
        set_batching(path, EIGHT)
    assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, ENERGY)
    (tmp_path / ".energy.yaml.new").mkdir()
    with pytest.raises(NotEditedError, match=r"energy\.yaml cannot be written: Is a directory"):
        set_batching(path, EIGHT)
    assert path.read_text() == ENERGY
