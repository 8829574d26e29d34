"""How often sensors tick whose moments are of one kind."""

from typing import Final

TICK_SECONDS: Final = 4
"""Between two looks at what somebody waits for. Dagster's daemon visits sensors every five seconds
(``MIN_INTERVAL_LOOP_TIME`` in ``dagster/_daemon/sensor.py``), and passes over one whose interval
lacks a millisecond: an interval of five would be one of ten for most visits."""

SHOW_SECONDS: Final = 15
"""Between two looks at what is only to be shown or told."""

RECONCILE_SECONDS: Final = 60
"""Between two looks at whether anything was missed."""
