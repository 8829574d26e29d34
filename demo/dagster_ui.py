"""The Dagster UI in headless Chromium, used as a person does: by its buttons, partitions, plots.

Chromium and its driver are Debian's (``apt-get install chromium chromium-driver``). Both run in a
profile that is deleted afterwards, and speak to nothing but the UI.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    NoSuchElementException,
    StaleElementReferenceException,
    TimeoutException,
)
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

WIDTH: Final = 1440  # pixels
HEIGHT: Final = 900  # pixels
_PATIENCE: Final = 120.0  # seconds for a page to show something; a busy machine draws slowly
_CLICKS: Final = 6
_FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",  # Chromium refuses its sandbox to root, the usual user of containers
    "--disable-dev-shm-usage",  # /dev/shm of a container is too small for it
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
_CHANGING: Final = (
    StaleElementReferenceException,
    ElementClickInterceptedException,
    ElementNotInteractableException,
    NoSuchElementException,
)
Shown = TypeVar("Shown")
_LAUNCHED: Final = (
    "//*[contains(@class, 'toast') or contains(@class, 'Toast')]//*[normalize-space(text())='View']"
)
_RUN_ENDED: Final = ("Success", "Failure", "Canceled")


class BrowserMissingError(RuntimeError):
    """Chromium or its driver is not installed; the message says how to install both."""


@contextmanager
def chromium() -> Iterator[WebDriver]:
    """A headless Chromium with a window of 1440 × 900 pixels, ended with the ``with`` block.

    Raises:
        BrowserMissingError: it is not on this machine.
    """
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        raise BrowserMissingError(
            "no chromium on this machine: apt-get install chromium chromium-driver"
        )
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        service = Service(driver)  # a path given: Selenium looks for no driver on the network
        started = webdriver.Chrome(options=options, service=service)
        try:
            # The window's own size would include a frame, which a headless window does not have.
            metrics = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
            started.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            yield started
        finally:
            started.quit()


@dataclass(frozen=True)
class DagsterUI:
    """The pages of a Dagster webserver. Each method waits until the page shows its subject.

    Every method raises ``selenium.common.exceptions.TimeoutException`` when the page does not show
    it in time.
    """

    browser: WebDriver
    url: str
    location: str = "tenantry"

    # ---- pages -----------------------------------------------------------------------------------

    def open_asset_graph(self, group: str) -> None:
        """The graph of an asset group, drawn with the state of each asset. For that it needs the
        room that the navigation takes, which is hidden."""
        graph = f"/locations/{self.location}/asset-groups/{group}/lineage"
        self._open(graph)
        self.see("Materialize all")
        if found := self.browser.find_elements(By.XPATH, "//*[text()='Hide navigation']"):
            found[0].click()
            self._open(graph)  # is drawn to fit as it opens
        self.see("Latest event")
        self._wait(lambda: "Loading..." not in self.text(), "each asset's state")

    def open_asset(self, asset: str) -> None:
        """An asset's overview; ``asset`` is its key, like ``energy/training_data``."""
        self._open(f"/assets/{asset}?view=overview")
        self.see("Definition")

    def open_partition(self, asset: str, partition: str) -> None:
        """One partition of an asset: its status, latest materialisation and metadata."""
        self._open(f"/assets/{asset}?view=partitions&partition={partition}")
        self.see("View all historical events")
        self._wait(lambda: "Loading" not in self.text(), "the partition's events")

    def open_automation(self) -> None:
        """Sensors and schedules."""
        self._open("/automation")
        self.see("Standard sensor")

    # ---- what a person does ----------------------------------------------------------------------

    def materialize(self, asset: str, partition: str | None = None) -> str:
        """Materialise an asset, or one partition of it, by the button of the asset's page; returns
        the run's id.

        Leaves the run's page open.
        """
        self.open_asset(asset)
        if partition is None:
            self.click("//button[not(@disabled)][normalize-space()='Materialize']")
        else:
            self._choose(partition)
        self._open_launched_run()
        return self._wait(self._run_of_page, "the run's page")

    def launch(self, job: str, partition: str) -> str:
        """Launch a job for one partition from its launchpad; returns the run's id.

        Leaves the run's page open.
        """
        self._open(f"/locations/{self.location}/jobs/{job}/playground")
        search = self.see_element("//input[@placeholder='Partition']")
        search.click()
        search.send_keys(partition)
        self.click(
            f"//*[@role='menuitem' or @role='option'][normalize-space()={_quoted(partition)}]"
        )
        self.click("//button[not(@disabled)][contains(., 'Launch Run')]")
        return self._wait(self._launched_run, "the run's page")

    def _launched_run(self) -> str | None:
        """The run of the page. Until there is one, follow the notice that it was launched."""
        if run := self._run_of_page():
            return run
        for view in self.browser.find_elements(By.XPATH, _LAUNCHED):
            if view.is_displayed():
                view.click()
        return None

    def _choose(self, partition: str) -> None:
        """Launch a run of one partition by the dialog of the button."""
        self.click("//button[not(@disabled)][contains(., 'Materialize…')]")
        dialog = "//*[@role='dialog'][contains(., 'Launch runs to materialize')]"
        search = self.click_for(
            f"{dialog}//*[text()='Select a partition or create one']",
            "//input[@placeholder='Filter partitions']",
        )
        search.send_keys(partition)
        self.click(f"//*[@role='menuitem'][.//*[text()={_quoted(partition)}]]")
        self.see("1 partition")
        # closes the list, not the dialog
        self.click(f"{dialog}//*[starts-with(text(), 'Launch runs to materialize')]")
        self.click("//button[not(@disabled)][normalize-space()='Launch 1 run']")

    def wait_until_run_ended(self, seconds: float) -> str:
        """On a run's page: wait for its end and return the status as the page words it: Success,
        Failure or Canceled."""
        shown = " or ".join(f"normalize-space(text())='{status}'" for status in _RUN_ENDED)
        return self.see_element(f"//*[{shown}]", seconds=seconds).text.strip()

    def show_picture(self, entry: str) -> WebElement:
        """On a partition's page: open the Markdown of a metadata entry such as ``plot`` and return
        the picture, loaded."""
        row = f"//tr[.//td[normalize-space()={_quoted(entry)}]]"
        self.click(f"{row}//*[normalize-space(text())='[Show Markdown]']")
        picture = self.see_element("//*[@role='dialog']//img[starts-with(@src, 'data:image/png')]")
        self._wait(lambda: self.natural_width(picture) > 0, "a picture that can be decoded")
        return picture

    def natural_width(self, picture: WebElement) -> int:
        """The width, in pixels, of the PNG itself; 0 if it could not be decoded."""
        script = "return arguments[0].complete ? arguments[0].naturalWidth : 0"
        return int(self.browser.execute_script(script, picture))

    # ---- what a person sees ----------------------------------------------------------------------

    def text(self) -> str:
        """The text on the page."""
        return self.browser.find_element(By.TAG_NAME, "body").text

    def see(self, words: str, seconds: float = _PATIENCE) -> None:
        """Wait until the page shows some words."""
        self._wait(lambda: words in self.text(), f"the words {words!r}", seconds)

    def see_element(self, xpath: str, seconds: float = _PATIENCE) -> WebElement:
        """Wait until an element is shown, and return it."""

        def shown() -> WebElement | None:
            return next(
                (e for e in self.browser.find_elements(By.XPATH, xpath) if e.is_displayed()), None
            )

        return self._wait(shown, xpath, seconds)

    def click(self, xpath: str) -> None:
        """Wait until an element is shown and takes a click, and click it."""

        def clicked() -> bool:
            for element in self.browser.find_elements(By.XPATH, xpath):
                if element.is_displayed():
                    element.click()
                    return True
            return False

        self._wait(clicked, f"{xpath} to click")

    def click_for(self, xpath: str, wanted: str) -> WebElement:
        """Click an element, and again if ``wanted`` does not appear: a click on an element that is
        being redrawn is lost."""
        for _ in range(_CLICKS):
            self.click(xpath)
            with suppress(TimeoutException):
                return self.see_element(wanted, seconds=_PATIENCE / _CLICKS)
        return self.see_element(wanted)

    # ---- the way there ---------------------------------------------------------------------------

    def _open(self, path: str) -> None:
        self.browser.get(f"{self.url}{path}")

    def _open_launched_run(self) -> None:
        """Follow the notice that a run was launched."""
        self.click(_LAUNCHED)

    def _run_of_page(self) -> str | None:
        _, found, run = self.browser.current_url.partition("/runs/")
        return run.partition("?")[0] if found else None

    def _wait(
        self, condition: Callable[[], Shown | None], what: str, seconds: float = _PATIENCE
    ) -> Shown:
        """The result of ``condition``, as soon as it is neither None nor false."""
        wait = WebDriverWait(
            self.browser, seconds, poll_frequency=0.2, ignored_exceptions=_CHANGING
        )
        return wait.until(lambda _: condition() or False, f"the page does not show {what}")


def _quoted(text: str) -> str:
    """Text as an XPath literal; partition keys hold no quotes."""
    if "'" in text:
        raise ValueError(f"{text!r} cannot be written in XPath")
    return f"'{text}'"
