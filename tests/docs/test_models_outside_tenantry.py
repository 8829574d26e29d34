"""The snippets that use a tenant's model outside Tenantry: run unchanged, and compared with the
services' answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pytest

from containers.diffusion.adapters.adapter import read_adapter
from containers.diffusion.adapters.lora import LoraLayers
from containers.diffusion.base.pipeline import load_base
from containers.forecast.serving.predictor import ForecastPredictor
from containers.runtime.archives.archive import extract_archive, write_archive
from tests.conftest import ROOT, TrainedForecast
from tests.containers.diffusion.conftest import RANK, TARGETS, card, random_weights, write_model
from tests.containers.diffusion.test_engine import drawing, drawn, engine_over, same
from tests.docs.pages import blocks

DOCS: Final = ROOT / "docs"


def run_snippet(page: str, holding: str) -> dict[str, Any]:
    """Run the page's only Python snippet that contains ``holding``; returns its names."""
    (snippet,) = (
        text for language, text in blocks(DOCS / page) if language == "python" and holding in text
    )
    names = dict[str, Any]()
    exec(compile(snippet, page, "exec"), names)  # noqa: S102 - the page is ours
    return names


def test_stock_diffusers_draws_an_adapter_as_the_endpoint_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_base("tiny", device="cpu")
    layers = LoraLayers(base.unet, TARGETS, 2, RANK)
    weights = random_weights(layers, seed=3, scale=0.05)
    model = write_model(tmp_path / "model", weights, card(base))
    write_archive(model, tmp_path / "studio-1.tar.gz")
    (tmp_path / "containers").symlink_to(ROOT / "containers")
    monkeypatch.chdir(tmp_path)
    found = run_snippet("portraits.md", "load_lora_weights")
    picture = np.asarray(found["picture"])
    asked = drawing("a big star", seed=7, steps=8, width=picture.shape[1], height=picture.shape[0])
    engine = engine_over(base, layers)
    adapter = read_adapter(model, layers.shapes(), base.digest, RANK, base.unet.dtype)
    assert same(drawn(engine, adapter, asked)[0], picture)
    found["pipe"].unload_lora_weights()
    seed = found["seed"].manual_seed(7)
    plain = found["pipe"]("a big star", generator=seed, num_inference_steps=8, guidance_scale=4)
    assert not same(np.asarray(plain.images[0]), picture), "the adapter changes what is drawn"
    assert (tmp_path / "star.png").is_file()


def test_a_notebook_reads_the_forecast_that_the_endpoint_answers(
    trained_forecasts: list[TrainedForecast], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "acme.tar.gz").write_bytes(trained_forecasts[0].archive)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    coming = run_snippet("your-first-hour.md", "fill_between")["coming"]
    (tmp_path / "model").mkdir()
    extract_archive(tmp_path / "acme.tar.gz", tmp_path / "model")
    predictor = ForecastPredictor()
    asked = b'{"period": 7, "start": "data_end"}'
    answer = predictor.predict(predictor.load(tmp_path / "model"), asked, "application/json", "")
    told = json.loads(answer.body)
    assert list(coming["mean"]) == told["mean"]
    assert list(coming["0.9"]) == told["quantiles"]["0.9"]
    first = coming.index[0].tz_localize("Europe/London")
    assert first == pd.Timestamp(told["timestamps"][0])
    assert (tmp_path / "coming-week.png").is_file()
