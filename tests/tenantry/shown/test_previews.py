"""The result of a training container's preview: pictures for an artifact's metadata, or a reason
for their absence."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import pytest
from PIL import Image

from tenantry.shown.plots import as_markdown, plot_of_losses
from tenantry.shown.previews import pictures_of_preview


def encoded(kind: str, size: tuple[int, int] = (90, 60)) -> str:
    sink = io.BytesIO()
    Image.new("RGB", size, "teal").save(sink, format=kind)
    return base64.b64encode(sink.getvalue()).decode()


def preview(**changed: Any) -> dict[str, Any]:
    return {
        "kind": "pictures",
        "sheet": encoded("png"),
        "loss": [[1, 0.9], [50, 0.4], [100, 0.3]],
        **changed,
    }


def test_pictures_give_their_sheet_as_it_is_and_a_loss_curve() -> None:
    pictures = pictures_of_preview(preview(), "acme, v1")
    assert list(pictures) == ["contact_sheet", "loss_curve"]
    assert pictures["contact_sheet"] == base64.b64decode(preview()["sheet"])
    assert Image.open(io.BytesIO(pictures["loss_curve"])).size == (560, 210)
    assert pictures["loss_curve"] != plot_of_losses([[1, 0.3], [50, 0.4], [100, 0.9]], "acme, v1")


def test_a_sheet_may_be_a_jpeg_and_says_so() -> None:
    sheet = pictures_of_preview(preview(sheet=encoded("jpeg")), "acme")["contact_sheet"]
    assert as_markdown(sheet, "sheet").startswith("![sheet](data:image/jpeg;base64,/9j/")


def test_a_preview_of_another_kind_gives_nothing() -> None:
    assert pictures_of_preview({}, "acme") == pictures_of_preview({"kind": "sound"}, "acme") == {}


@pytest.mark.parametrize(
    "changed",
    [
        {"sheet": None},
        {"sheet": "!"},
        {"sheet": base64.b64encode(b"<svg onload=alert(1)>").decode()},
        {"sheet": encoded("gif")},
        {"sheet": encoded("png", (4097, 1))},
        {"sheet": "A" * 1_500_000},
        {"loss": None},
        {"loss": []},
        {"loss": [[1, 0.5]]},
        {"loss": [[2, 0.5], [1, 0.4]]},
        {"loss": [[1, math.nan], [2, 0.4]]},
        {"loss": [[1, "a"], [2, 0.4]]},
        {"loss": [[n, 1.0] for n in range(2001)]},
    ],
    ids=lambda changed: str(changed)[:40],
)
def test_a_malformed_one_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"a (pictures preview|loss curve)"):
        pictures_of_preview(preview(**changed), "acme")
