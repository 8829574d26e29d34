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
from selenium.webdriver.common.keys import Keys
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

    The UI redraws its elements at any time. So an element is found and used within one try of a
    wait, and never kept.

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
        self._wait(self._navigation_hidden, "a graph without navigation")
        self._open(graph)  # is drawn to fit as it opens
        self.see("Latest event")
        self._wait(lambda: "Loading..." not in self._text(), "each asset's state")

    def open_asset(self, asset: str) -> None:
        """An asset's overview; ``asset`` is its key, like ``energy/training_data``."""
        self._open(f"/assets/{asset}?view=overview")
        self.see("Definition")

    def open_partition(self, asset: str, partition: str) -> None:
        """One partition of an asset: its status, latest materialisation and metadata."""
        self._open(f"/assets/{asset}?view=partitions&partition={partition}")
        self.see("View all historical events")
        self._wait(lambda: "Loading" not in self._text(), "the partition's events")

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
        self.write("//input[@placeholder='Partition']", partition)
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
        search = "//input[@placeholder='Filter partitions']"
        self.click_for(f"{dialog}//*[text()='Select a partition or create one']", search)
        self.write(search, partition)
        self.click(f"//*[@role='menuitem'][.//*[text()={_quoted(partition)}]]")
        self.see("1 partition")
        # closes the list, not the dialog
        self.click(f"{dialog}//*[starts-with(text(), 'Launch runs to materialize')]")
        self.click("//button[not(@disabled)][normalize-space()='Launch 1 run']")

    def wait_until_run_ended(self, seconds: float) -> str:
        """On a run's page: wait for its end and return the status as the page words it: Success,
        Failure or Canceled."""
        shown = " or ".join(f"normalize-space(text())='{status}'" for status in _RUN_ENDED)
        return self._use(f"//*[{shown}]", lambda element: element.text.strip(), seconds)

    def show_picture(self, entry: str) -> int:
        """On a partition's page: open the Markdown of a metadata entry such as ``plot``, and wait
        for its picture; returns the width of the PNG itself in pixels."""
        row = f"//tr[.//td[normalize-space()={_quoted(entry)}]]"
        self.click(f"{row}//*[normalize-space(text())='[Show Markdown]']")
        picture = "//*[@role='dialog']//img[starts-with(@src, 'data:image/png')]"
        # 0 until the picture is decoded
        script = "return arguments[0].complete ? arguments[0].naturalWidth : 0"
        return self._use(picture, lambda image: int(self.browser.execute_script(script, image)))

    # ---- what a person sees ----------------------------------------------------------------------

    def text(self) -> str:
        """The text on the page."""
        return self._wait(lambda: (self._text(),), "a text")[0]

    def see(self, words: str, seconds: float = _PATIENCE) -> None:
        """Wait until the page shows some words."""
        self._wait(lambda: words in self._text(), f"the words {words!r}", seconds)

    def click(self, xpath: str) -> None:
        """Wait until an element is shown and takes a click, and click it."""

        def clicked(element: WebElement) -> bool:
            element.click()
            return True

        self._use(xpath, clicked)

    def write(self, xpath: str, text: str) -> None:
        """Wait until a field is shown, and write a text into it in place of what it holds."""

        def written(field: WebElement) -> bool:
            field.click()
            field.send_keys(Keys.CONTROL, "a")
            field.send_keys(text)
            return field.get_property("value") == text

        self._use(xpath, written)

    def click_for(self, xpath: str, wanted: str) -> None:
        """Click an element, and again if ``wanted`` does not appear: a click on an element that is
        being redrawn is lost."""
        for _ in range(_CLICKS):
            self.click(xpath)
            with suppress(TimeoutException):
                self._use(wanted, lambda _: True, _PATIENCE / _CLICKS)
                return
        self._use(wanted, lambda _: True)

    # ---- the way there ---------------------------------------------------------------------------

    def _open(self, path: str) -> None:
        self.browser.get(f"{self.url}{path}")

    def _open_launched_run(self) -> None:
        """Follow the notice that a run was launched."""
        self.click(_LAUNCHED)

    def _navigation_hidden(self) -> bool:
        shown = self.browser.find_elements(By.XPATH, "//*[text()='Hide navigation']")
        for button in shown:
            button.click()
        return not shown

    def _text(self) -> str:
        return self.browser.find_element(By.TAG_NAME, "body").text

    def _use(
        self, xpath: str, use: Callable[[WebElement], Shown | None], seconds: float = _PATIENCE
    ) -> Shown:
        """What ``use`` makes of the first element shown, as soon as it is neither None nor false.

        A try that meets an element redrawn meanwhile is followed by another.
        """

        def used() -> Shown | None:
            elements = self.browser.find_elements(By.XPATH, xpath)
            shown = next((element for element in elements if element.is_displayed()), None)
            return None if shown is None else use(shown)

        return self._wait(used, xpath, seconds)

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
