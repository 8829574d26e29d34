"""Requests to loaded models, alone and together, and files that are no model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.runtime.serving.predictor import Answer, InvalidModelError, InvalidRequestError
from containers.tabular.model import COLUMNS, TREES, Model
from containers.tabular.predictor import TabularPredictor
from containers.tabular.request import MOST_ROWS, parse
from containers.tabular.synthetic import generate
from containers.tabular.table import OTHER, TABLE, column_of
from tests.containers.tabular.churn import FEATURES, ROW, requested, scored
from tests.containers.tabular.conftest import Shared

PREDICTOR = TabularPredictor()
JSON = "application/json"


@pytest.fixture(scope="module")
def model(shared: Shared) -> Model:
    return PREDICTOR.load(shared.model.folder)


def ask(model: Model, request: Any, content_type: str = JSON) -> dict[str, Any]:
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    answer = PREDICTOR.predict(model, body, content_type, JSON)
    assert answer.content_type == JSON
    return dict(json.loads(answer.body))


def test_each_row_gets_a_probability_and_its_id(model: Model) -> None:
    (alone,) = ask(model, ROW)["scores"]
    assert 0 < alone < 1
    risky = {**ROW, "contract": "monthly", "support_tickets_90d": 6, "nps": 1}
    told = ask(model, {"rows": [{**ROW, "id": "c1"}, {**risky, "id": 7}, risky]})
    assert told["ids"] == ["c1", 7, None]
    assert told["scores"][0] == alone < told["scores"][1] == told["scores"][2]
    assert "ids" not in ask(model, {"rows": [ROW]})
    assert ask(model, {**ROW, "id": "\ud800"})["ids"] == ["\ud800"], "half a character comes back"


def test_what_is_missing_may_be_null_and_what_is_optional_absent(model: Model) -> None:
    without = {name: value for name, value in ROW.items() if name != "nps"}
    assert ask(model, without) == ask(model, {**ROW, "nps": None})
    nothing = dict.fromkeys(ROW)
    assert 0 < ask(model, nothing)["scores"][0] < 1


def test_a_category_is_spelled_in_any_way_and_an_unknown_one_is_other(model: Model) -> None:
    usual = ask(model, {**ROW, "contract": "multi_year"})
    assert ask(model, {**ROW, "contract": " Multi-Year "}) == usual
    assert ask(model, {**ROW, "contract": "gold"}) == ask(model, {**ROW, "contract": OTHER})


def test_csv_is_answered_as_json_is(model: Model) -> None:
    text = ",".join(["id", *ROW]) + "\n"
    text += ",".join(["c1", *(str(value) for value in ROW.values())]) + "\n"
    text += ",".join(["c2", *("" for _ in ROW)]) + "\n\n"
    told = ask(model, text.encode(), "text/csv; charset=utf-8")
    assert told["ids"] == ["c1", "c2"]
    rows = [ROW, dict.fromkeys(ROW)]
    assert told["scores"] == ask(model, {"rows": rows})["scores"]
    assert ask(model, b"\xef\xbb\xbf" + text.encode(), "text/csv") == told


ENDLESS = json.dumps(ROW).replace("240.0", "1e999").encode()
REQUESTS: dict[str, tuple[Any, str | None, str]] = {
    "nothing": (b"", None, "not_json"),
    "no JSON": (b"{", None, "not_json"),
    "too deep": (b"[" * 100_000, None, "not_json"),
    "NaN": (json.dumps({**ROW, "seats": float("nan")}).encode(), None, "not_json"),
    "a list": ([ROW], None, "rows_malformed"),
    "rows and more": ({"rows": [ROW], "days": 1}, "rows", "rows_malformed"),
    "rows of another type": ({"rows": ROW}, "rows", "rows_malformed"),
    "a row of another type": ({"rows": [ROW, 7]}, "rows", "rows_malformed"),
    "no rows": ({"rows": []}, "rows", "rows_malformed"),
    "too many": ({"rows": [{}] * (MOST_ROWS + 1)}, "rows", "too_many_rows"),
    "unknown": ({**ROW, "region": "north"}, "region", "field_unknown"),
    "the target": ({**ROW, "churned": True}, "churned", "field_unknown"),
    "missing": ({"rows": [ROW, {"seats": 1}]}, "tenure_months", "field_missing"),
    "an empty object": ({}, "tenure_months", "field_missing"),
    "text for a number": ({**ROW, "seats": "12"}, "seats", "wrong_type"),
    "a flag for a number": ({**ROW, "seats": True}, "seats", "wrong_type"),
    "a number for a flag": ({**ROW, "autopay": 1}, "autopay", "wrong_type"),
    "a number for text": ({**ROW, "contract": 3}, "contract", "wrong_type"),
    "a list for text": ({**ROW, "contract": ["annual"]}, "contract", "wrong_type"),
    "too large": ({**ROW, "nps": 11}, "nps", "out_of_range"),
    "too small": ({**ROW, "seats": -0.5}, "seats", "out_of_range"),
    "endless": (ENDLESS, "monthly_charge", "out_of_range"),
    "hundreds of digits": ({**ROW, "seats": 10**400}, "seats", "out_of_range"),
    "an id of another type": ({**ROW, "id": 1.5}, "id", "wrong_type"),
    "a long id": ({**ROW, "id": "c" * 257}, "id", "wrong_type"),
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_that_cannot_be_answered_tells_field_and_reason(model: Model, kind: str) -> None:
    request, field, reason = REQUESTS[kind]
    with pytest.raises(InvalidRequestError) as refused:
        ask(model, request)
    assert (refused.value.field, refused.value.reason) == (field, reason)


HEADER = ",".join(ROW).encode() + b"\n"


HEADER = ",".join(ROW).encode() + b"\n"


@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        (b"", "rows", "rows_malformed"),
        (b"\xff\xfe", None, "not_csv"),
        (b'seats\n"4', None, "not_csv"),
        (b"seats,seats\n1,2\n", "rows", "rows_malformed"),
        (b"seats,nps\n1\n", "rows", "rows_malformed"),
        (b"seats,region\n1,north\n", "region", "field_unknown"),
        (b"seats\n1\n", "tenure_months", "field_missing"),
        (HEADER + b"x,,,,,,,,,\n", "tenure_months", "wrong_type"),
        (HEADER + b"nan,,,,,,,,,\n", "tenure_months", "wrong_type"),
        (HEADER + b"inf,,,,,,,,,\n", "tenure_months", "out_of_range"),
        (HEADER + b",,perhaps,,,,,,,\n", "autopay", "wrong_type"),
    ],
)
def test_csv_that_cannot_be_answered_tells_field_and_reason(
    model: Model, text: bytes, field: str | None, reason: str
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        ask(model, text, "text/csv")
    assert (refused.value.field, refused.value.reason) == (field, reason)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
)


@given(
    rows=st.lists(
        st.fixed_dictionaries({}, optional=dict.fromkeys([*FEATURES, "id", "region"], VALUES)).map(
            lambda changes: {**ROW, **changes}
        ),
        max_size=3,
    )
)
def test_any_rows_are_parsed_to_one_array_or_refused(rows: list[dict[str, Any]]) -> None:
    body = json.dumps({"rows": rows}).encode()
    try:
        question = parse(body, JSON, TABLE.features)
    except InvalidRequestError as error:
        assert error.reason  # noqa: PT017 - either way is right
        return
    assert question.features.shape == (len(rows), len(FEATURES))
    assert question.features.dtype == np.float32
    assert not np.isinf(question.features).any()
    for row, told in zip(rows, question.features, strict=True):
        for name, value in zip(FEATURES, told, strict=True):
            assert np.isnan(value) == (row[name] is None)


@given(st.binary(max_size=60), st.sampled_from([JSON, "text/csv", "", "image/png"]))
def test_any_body_is_parsed_or_refused(body: bytes, content_type: str) -> None:
    with pytest.raises(InvalidRequestError):
        parse(body, content_type, TABLE.features)


def test_requests_together_are_answered_as_alone_each_with_its_own_fault(
    shared: Shared, model: Model
) -> None:
    other = PREDICTOR.load(shared.model.folder)
    rows = requested(generate(1, 60, 1, 9))
    bodies = [json.dumps({"rows": rows[start : start + 20]}).encode() for start in (0, 20, 40)]
    wrong = json.dumps({"rows": [{}]}).encode()
    questions = [
        (model, bodies[0], JSON, JSON),
        (other, bodies[1], JSON, JSON),
        (model, wrong, JSON, JSON),
        (model, bodies[2], JSON, JSON),
        (other, b"{", "text/csv", JSON),
    ]
    answers = PREDICTOR.predict_batch(questions)
    assert [isinstance(answer, Answer) for answer in answers] == [True, True, False, True, False]
    for place in (0, 1, 3):
        assert answers[place] == PREDICTOR.predict(*questions[place])
    assert isinstance(answers[2], InvalidRequestError)
    assert answers[2].field == "tenure_months"
    assert PREDICTOR.predict_batch([]) == []


def test_serving_sees_what_training_saw(shared: Shared) -> None:
    """Training reads Parquet, serving reads JSON: the same rows must get the same scores."""
    import xgboost
    from pyarrow import parquet

    from containers.tabular.rows import encoded

    table = parquet.read_table(shared.root / "tenant-0003/v1/rows.parquet")
    booster = xgboost.Booster()
    booster.load_model(shared.model.folder / TREES)
    expected = booster.inplace_predict(encoded(table))
    assert scored(shared.model.folder, requested(table)) == pytest.approx(expected, abs=1e-6)


def test_a_model_says_how_much_memory_it_takes(shared: Shared, model: Model) -> None:
    assert PREDICTOR.size(model) == (shared.model.folder / TREES).stat().st_size


def change(name: str, edit: Callable[[Any], Any]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        document = json.loads((folder / name).read_bytes())
        edit(document)
        (folder / name).write_text(json.dumps(document))

    return changed


def trees(edit: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Edit the first tree; its root has children."""
    return change(TREES, lambda it: edit(it["learner"]["gradient_booster"]["model"]["trees"][0]))


def learner(edit: Callable[[Any], Any]) -> Callable[[Path], None]:
    return change(TREES, lambda it: edit(it["learner"]))


def set_first(name: str, value: Any) -> Callable[[Path], None]:
    return trees(lambda tree: tree[name].__setitem__(0, value))


NO_MODELS: dict[str, Callable[[Path], Any]] = {
    "no trees": lambda folder: (folder / TREES).unlink(),
    "no columns": lambda folder: (folder / COLUMNS).unlink(),
    "cut trees": lambda folder: (folder / TREES).write_bytes((folder / TREES).read_bytes()[:-9]),
    "a pickle": lambda folder: (folder / TREES).write_bytes(b"\x80\x04N."),
    "no object": lambda folder: (folder / TREES).write_text("[]"),
    "deep": lambda folder: (folder / TREES).write_text("[" * 100_000),
    "columns of text": lambda folder: (folder / COLUMNS).write_text("no"),
    "no column": lambda folder: (folder / COLUMNS).write_text("[]"),
    "one column": change(COLUMNS, lambda it: it.__delitem__(slice(1, None))),
    "a column twice": change(COLUMNS, lambda it: it.append(it[0])),
    "another kind": change(COLUMNS, lambda it: it[0].update(kind="category")),
    "an unknown kind": change(COLUMNS, lambda it: it[0].update(kind="picture")),
    "an endless range": change(COLUMNS, lambda it: it[0].update(low=float("nan"))),
    "another objective": learner(lambda it: it["objective"].update(name="reg:squarederror")),
    "linear": learner(lambda it: it["gradient_booster"].update(name="gblinear")),
    "fewer features": learner(lambda it: it["learner_model_param"].update(num_feature="3")),
    "classes": learner(lambda it: it["learner_model_param"].update(num_class="3")),
    "fewer trees": learner(lambda it: it["gradient_booster"]["model"]["trees"].pop()),
    "rounds of other trees": learner(
        lambda it: it["gradient_booster"]["model"]["iteration_indptr"].__setitem__(-1, 10**6)
    ),
    "a child beyond": set_first("left_children", 10**6),
    "a child before": set_first("left_children", -5),
    "a circle": trees(lambda tree: tree["left_children"].__setitem__(tree["right_children"][0], 0)),
    "one child twice": trees(
        lambda tree: tree["left_children"].__setitem__(0, tree["right_children"][0])
    ),
    "a column beyond": set_first("split_indices", 10),
    "a column before": set_first("split_indices", -1),
    "another split": trees(
        lambda tree: tree["split_type"].__setitem__(0, 1 - tree["split_type"][0])
    ),
    "fewer nodes": trees(lambda tree: tree["split_conditions"].pop()),
    "categories beyond": trees(
        lambda tree: tree.update(
            categories_nodes=[0], categories_segments=[0], categories_sizes=[9], categories=[1]
        )
    ),
    "no number": trees(lambda tree: tree["base_weights"].__setitem__(0, "x")),
}


@pytest.mark.parametrize("kind", NO_MODELS)
def test_files_that_are_no_model_are_refused(shared: Shared, tmp_path: Path, kind: str) -> None:
    folder = shutil.copytree(shared.model.folder, tmp_path / "model")
    NO_MODELS[kind](folder)
    with pytest.raises(InvalidModelError, match=rf"{TREES}|{COLUMNS}".replace(".", r"\.")):
        PREDICTOR.load(folder)


def test_files_that_are_too_large_are_not_read_on(
    shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, name in (("LARGEST_TREES", TREES), ("LARGEST_COLUMNS", COLUMNS)):
        size = (shared.model.folder / name).stat().st_size
        monkeypatch.setattr(f"containers.tabular.model.{limit}", size)
        PREDICTOR.load(shared.model.folder)
        monkeypatch.setattr(f"containers.tabular.model.{limit}", size - 1)
        with pytest.raises(InvalidModelError, match="is larger than"):
            PREDICTOR.load(shared.model.folder)
        monkeypatch.undo()


def test_columns_come_back_from_their_json() -> None:
    for column in TABLE.features:
        assert column_of(json.loads(json.dumps(column.to_json()))) == column


def test_serving_imports_nothing_that_made_the_models() -> None:
    program = (
        "import sys; import containers.tabular.predictor; "
        "print(sorted({'pyarrow', 'pandas', 'xgboost', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
