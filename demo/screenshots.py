"""Takes the README's pictures of the Dagster UI: ``python -m demo.screenshots`` beside a running
``make run``."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from PIL import Image

from demo.dagster_ui import BrowserMissingError, DagsterUI, chromium
from demo.portraits import NAMES

MAX_BYTES: Final = 300_000  # of one picture: a README that loads quickly
_ARTIFACT: Final = "energy/fine_tuned_artifact"
_TRAINING_DATA: Final = "energy/training_data"


def views(ui: DagsterUI, tenant: str, spoiled: str) -> Mapping[str, Callable[[], object]]:
    """The pictures' subjects, by file name; each entry opens its subject in the UI.

    Args:
        ui: a Dagster in which a demo has run.
        tenant: one with a model.
        spoiled: the one whose upload was refused.
    """

    def tenants_artifact() -> None:
        ui.open_partition(_ARTIFACT, tenant)
        ui.show_picture("plot")

    def portraits_artifact() -> None:
        ui.open_partition("portraits/fine_tuned_artifact", NAMES[0])
        ui.show_picture("contact_sheet")

    def tenants_statuses() -> None:
        ui.open_partition(_TRAINING_DATA, spoiled)
        ui.see("did not materialize this asset")

    return {
        "asset-graph": lambda: ui.open_asset_graph("energy"),
        "tenants": tenants_statuses,
        "tenant-artifact": tenants_artifact,
        "portraits-artifact": portraits_artifact,
        "automation": ui.open_automation,
    }


def small_enough(screenshot: bytes) -> bytes:
    """The PNG itself if it has at most ``MAX_BYTES``; else in 256 colours, which text and lines do
    with.

    Raises:
        ValueError: it is larger all the same.
    """
    if len(screenshot) <= MAX_BYTES:
        return screenshot
    with Image.open(io.BytesIO(screenshot)) as picture:
        sink = io.BytesIO()
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
            sink, format="png", optimize=True
        )
    if len(sink.getvalue()) > MAX_BYTES:
        raise ValueError(
            f"a picture has {len(sink.getvalue())} bytes; at most {MAX_BYTES} are meant"
        )
    return sink.getvalue()


def main() -> int:
    """Take the pictures. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m demo.screenshots", description=__doc__)
    parser.add_argument(
        "--url", default="http://127.0.0.1:3000", help="of the running Dagster UI (%(default)s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("docs/pictures"),
        help="folder of the pictures (%(default)s)",
    )
    parser.add_argument(
        "--tenant", default="customer-009", help="a tenant with a model (%(default)s)"
    )
    parser.add_argument(
        "--spoiled", default="customer-011", help="the tenant with the spoiled upload (%(default)s)"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        with chromium() as browser:
            ui = DagsterUI(browser, arguments.url)
            for name, show in views(ui, arguments.tenant, arguments.spoiled).items():
                show()
                file = arguments.out / f"{name}.png"
                file.write_bytes(small_enough(browser.get_screenshot_as_png()))
                print(f"{file}: {file.stat().st_size / 1000:.0f} kB")
    except BrowserMissingError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
