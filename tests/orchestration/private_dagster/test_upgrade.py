"""Parts that a new release of Dagster may break: the page that lists them, and the way back."""

from __future__ import annotations

import ast
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
from dagster import AssetKey, DagsterInstance, materialize
from dagster._core.storage.event_log import SqliteEventLogStorage

from orchestration.private_dagster.dagster_storage import ChosenStorage, UnusableStorageError
from orchestration.private_dagster.sqlite_event_log import KeptEngineSqliteEventLogStorage
from tests.orchestration.private_dagster.test_sqlite_event_log import CHOSEN, made

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/private-dagster.md").read_text()


def private_names(path: Path) -> set[str]:
    return {
        alias.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if f"{node.module}.{alias.name}".startswith("dagster._")
    }


def test_the_page_lists_every_private_name_that_is_used() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", PAGE, re.MULTILINE)
    told = {module: set(re.findall(r"`(\w+)`", names)) for module, names in rows}
    modules = (ROOT / "orchestration/private_dagster").glob("*.py")
    used = {path.stem: names for path in modules if (names := private_names(path))}
    assert told == used


def test_the_page_is_of_the_release_that_is_installed() -> None:
    assert f"Checked with Dagster {version('dagster')}." in PAGE


def test_dagsters_own_event_log_can_be_had_and_reads_what_ours_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    runs = []
    for choice, kind in (
        ("", KeptEngineSqliteEventLogStorage),
        ("stock", SqliteEventLogStorage),
        ("batched", KeptEngineSqliteEventLogStorage),
    ):
        monkeypatch.setenv("TENANTRY_DAGSTER_EVENT_LOG", choice)
        with DagsterInstance.local_temp(str(tmp_path), overrides=CHOSEN) as instance:
            assert type(instance.event_log_storage) is kind
            runs.append(materialize([made], instance=instance).run_id)
            records = instance.fetch_materializations(AssetKey("made"), limit=10).records
            assert [record.run_id for record in records] == [*reversed(runs)]


def test_another_choice_is_refused_with_what_may_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENANTRY_DAGSTER_EVENT_LOG", "fast")
    with pytest.raises(UnusableStorageError, match="write stock"):
        ChosenStorage(str(tmp_path))


def test_a_storage_whose_files_were_taken_away_is_made_anew(tmp_path: Path) -> None:
    for _ in range(2):
        for _ in range(2):  # the second time without another check
            storage = ChosenStorage(str(tmp_path))
            assert storage.run_storage.get_runs() == []
            assert storage.schedule_storage.all_instigator_state() == []
        for folder in ("history", "schedules"):
            shutil.rmtree(tmp_path / folder)
