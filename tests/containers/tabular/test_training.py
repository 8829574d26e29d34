"""Models of known data: how near they come to the truth, and what is told of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import compute

from containers.runtime.training.packed_training import Refused, Trained
from containers.runtime.training.training_input import InvalidTrainingInputError
from containers.tabular import scores, synthetic
from containers.tabular.model import COLUMNS, TREES
from containers.tabular.rows import BLOCK_ROWS, Rows
from containers.tabular.settings import LIMITS, Settings, parse_settings
from containers.tabular.synthetic import generate
from containers.tabular.table import TABLE
from tests.containers.tabular.churn import (
    FEATURES,
    prepared,
    prepared_tenants,
    requested,
    scored,
    table,
    trained,
)
from tests.containers.tabular.conftest import CUSTOMERS, MONTHS, SEED, TENANTS, Shared

NEAR: Final = 1.08
"""Of the truth's loss. A tenth of what there is to know is the tenants' level, in no column."""


def of_known_outcome(rows: Any) -> tuple[Any, Any, Any]:
    """Rows whose target is known, with it and the true probabilities."""
    known = rows.filter(compute.is_valid(rows[TABLE.target]))
    target = known[TABLE.target].to_numpy().astype(np.float64)
    return known, target, known[synthetic.TRUTH].to_numpy()


def test_a_shared_model_comes_near_the_truth_on_tenants_it_never_saw(shared: Shared) -> None:
    rows, target, truth = of_known_outcome(generate(TENANTS, 300, 4, SEED + 1))
    told = np.array(scored(shared.model.folder, requested(rows)))
    best = scores.log_loss(target, truth)
    base = scores.log_loss(target, np.full(len(target), shared.model.card["base_rate"]))
    assert best < scores.log_loss(target, told) < NEAR * best
    assert scores.log_loss(target, told) < 0.95 * base
    # The order of customers is told nearly as well as the truth tells it.
    area, best_area = (scores.area_under_curve(target, of) for of in (told, truth))
    assert area is not None
    assert best_area is not None
    assert area > best_area - 0.04


def test_what_is_told_of_a_model_is_what_it_does(shared: Shared) -> None:
    metrics, card = shared.model.metrics, shared.model.card
    assert metrics["logloss"] < 0.96 * metrics["baseline_logloss"]
    assert 0.7 < metrics["auc"] < 0.85
    assert 0 <= metrics["calibration_error"] < 0.03
    assert metrics["worst_decile_logloss"] < 1.1 * metrics["worst_decile_baseline_logloss"]
    rows, target, _ = of_known_outcome(generate(TENANTS, CUSTOMERS, MONTHS, SEED))
    assert card["rows"]["learned"] + card["rows"]["held_out"] == len(rows)
    assert card["rows"]["left_out"] == 0
    assert card["rows"]["held_out"] == pytest.approx(0.2 * len(rows), rel=0.15)
    assert card["base_rate"] == pytest.approx(target.mean(), rel=0.1)
    assert card["tenants"] == TENANTS
    assert card["data"] == {"start": "2024-01-01", "end": "2024-08-01"}
    assert card["features"] == FEATURES
    assert sum(card["importance"].values()) == pytest.approx(1, abs=0.01)
    # What matters most in the data matters most in the model.
    assert set(list(card["importance"])[:3]) & {"support_tickets_90d", "contract"}
    said = json.dumps([metrics, card, shared.model.preview])
    assert "tenant-" not in said, "no tenant is named in what all tenants' model tells"
    curve = [loss for _, loss in shared.model.preview["loss"]]
    assert min(curve) == pytest.approx(metrics["logloss"], abs=1e-4)
    assert card["trees"] < len(curve) + 1 <= 150


def test_after_the_drift_a_model_is_worse_than_where_there_is_none(shared: Shared) -> None:
    changed, as_before = (
        of_known_outcome(generate(TENANTS, CUSTOMERS, MONTHS + 3, SEED, drift_from=start))
        for start in (MONTHS - 1, None)
    )
    losses = []
    for rows, target, truth in (changed, as_before):
        late = np.array([str(day) >= "2024-09-01" for day in rows[TABLE.period].to_pylist()])
        told = np.array(scored(shared.model.folder, requested(rows.filter(late))))
        losses.append(
            scores.log_loss(target[late], told) / scores.log_loss(target[late], truth[late])
        )
    drifted, steady = losses
    assert steady < NEAR
    assert drifted > steady + 0.05


def test_the_same_data_give_the_same_bytes_whatever_the_threads(
    shared: Shared, tmp_path: Path
) -> None:
    made = [
        trained(shared.root, tmp_path / threads, rounds="8", threads=threads)[0]
        for threads in ("1", "2")
    ]
    one, two = made
    assert isinstance(one, Trained)
    assert isinstance(two, Trained)
    for name in (TREES, COLUMNS):
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()
    assert one.metrics == two.metrics


def test_a_tenants_own_folder_gives_a_model_of_that_tenant(shared: Shared, tmp_path: Path) -> None:
    prepared_tenants(tmp_path / "rows", generate(1, 1500, 6, SEED))
    result, progress = trained(tmp_path / "rows/tenant-0000/v1", tmp_path / "own")
    assert isinstance(result, Trained)
    assert result.card["tenants"] == 1
    assert result.metrics["logloss"] < result.metrics["baseline_logloss"]
    assert "worst_decile_logloss" not in result.metrics
    assert [one.step for one in progress] == list(range(1, len(progress) + 1))
    assert len(progress) >= result.card["trees"]


def test_customers_stay_on_their_side_as_their_tenants_data_grow(tmp_path: Path) -> None:
    def sides(root: Path) -> dict[bool, set[tuple[float, ...]]]:
        blocks = {side: Rows(root, 0.3).blocks(held_out=side) for side in (True, False)}
        return {
            side: {tuple(row) for block in found for row in np.nan_to_num(block.features, nan=-1)}
            for side, found in blocks.items()
        }

    rows = generate(2, 60, 4, SEED)
    early = rows.filter(compute.less(rows[TABLE.period], rows[TABLE.period][-1]))
    prepared_tenants(tmp_path / "early", early)
    prepared_tenants(tmp_path / "all", rows)
    before, after = sides(tmp_path / "early"), sides(tmp_path / "all")
    for side in (True, False):
        assert before[side]
        assert before[side] <= after[side]
    survey = Rows(tmp_path / "all", 0.3).survey()
    assert survey.learned + survey.held_out == len(rows.filter(rows["churned"].is_valid()))
    assert len(survey.held_out_of) == 2
    assert sum(survey.held_out_of) == survey.held_out


def test_blocks_have_a_bounded_size_and_hold_every_row_once(tmp_path: Path) -> None:
    many = [{"customer": f"c{number}", "monthly_charge": number} for number in range(40_000)]
    prepared(tmp_path / "rows/a/v1", table(*many))
    for tenant in ("b", "c", "d"):
        shutil.copytree(tmp_path / "rows/a/v1", tmp_path / "rows" / tenant / "v1")
    place = FEATURES.index("monthly_charge")
    for side in (True, False):
        seen: list[float] = []
        sizes = []
        for block in Rows(tmp_path / "rows", 0.5).blocks(held_out=side):
            sizes.append(len(block.target))
            seen += block.features[:, place].tolist()
        assert all(size == BLOCK_ROWS for size in sizes[:-1])
        assert len(sizes) == 2
        survey = Rows(tmp_path / "rows", 0.5).survey()
        assert len(seen) == (survey.held_out if side else survey.learned)
        assert max(np.unique(seen, return_counts=True)[1]) <= 4


def test_more_rows_than_the_bound_leave_customers_out_and_move_none(shared: Shared) -> None:
    whole, survey = Rows(shared.root, 0.2).at_most(10**9)
    known = survey.learned + survey.held_out
    fewer, left = whole.at_most(known // 3)
    assert left.learned + left.held_out == pytest.approx(known / 3, rel=0.1)
    assert left.learned + left.held_out + left.left_out == known
    assert left.held_out == pytest.approx(0.2 * known / 3, rel=0.25)
    assert len(left.held_out_of) == TENANTS
    for side in (True, False):
        before, after = (
            {row.tobytes() for block in rows.blocks(held_out=side) for row in block.features}
            for rows in (whole, fewer)
        )
        assert after < before


FEW: dict[str, tuple[list[dict[str, Any]], str]] = {
    "nothing known": ([{"churned": ""}], "Of 0 rows it is known"),
    "too few": ([{"customer": f"c{n}"} for n in range(100)], "Of 100 rows it is known"),
    "nobody left": ([{"customer": f"c{n}"} for n in range(400)], "Too few customers left"),
    "all left": (
        [{"customer": f"c{n}", "churned": "yes"} for n in range(400)],
        "Too few customers left, or stayed",
    ),
    "one customer": (
        [
            {"period": f"{1991 + n // 12}-{n % 12 + 1:02}", "churned": "yes" if n % 2 else "no"}
            for n in range(300)
        ],
        "of several customers",
    ),
}


@pytest.mark.parametrize("kind", FEW)
def test_too_little_to_learn_from_fails_that_task_with_a_sentence(
    tmp_path: Path, kind: str
) -> None:
    rows, reason = FEW[kind]
    prepared(tmp_path / "data", table(*rows))
    result, progress = trained(tmp_path / "data", tmp_path / "workspace")
    assert isinstance(result, Refused)
    assert reason in result.reason
    assert not result.retryable
    assert not progress


def test_a_folder_without_rows_fails_its_task(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result, _ = trained(tmp_path / "empty", tmp_path / "workspace")
    assert isinstance(result, Refused)


def test_hyperparameters_are_read_and_each_fault_is_told() -> None:
    assert parse_settings({"batch_size": "8", "sagemaker_program": "x"}) == Settings()
    read = parse_settings({"max_depth": "3", "learning_rate": "0.3", "threads": "2"})
    assert (read.max_depth, read.learning_rate, read.workers()) == (3, 0.3, 2)
    assert read.parameters()["max_depth"] == 3
    for name, text in (
        ("depth", "3"),
        ("max_depth", "3.5"),
        ("max_depth", "0"),
        ("learning_rate", "nan"),
        ("learning_rate", "fast"),
        ("held_out", "0.9"),
        ("seed", ""),
    ):
        with pytest.raises(InvalidTrainingInputError, match=name):
            trained(Path(), Path("never"), **{name: text})


@given(name=st.sampled_from(sorted(LIMITS)), text=st.text(max_size=8) | st.floats().map(repr))
def test_any_hyperparameter_is_within_its_limits_or_refused(name: str, text: str) -> None:
    least, most = LIMITS[name]
    try:
        value = getattr(parse_settings({name: text}), name)
    except ValueError as error:
        assert name in str(error)  # noqa: PT017 - either way is right
        return
    assert least <= value <= most
