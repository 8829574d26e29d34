"""The intervals of sensors, by the kind of their work."""

from typing import Final

TICK_SECONDS: Final = 4
"""Between two looks at work that people wait for. Dagster's daemon visits sensors every five
seconds (``MIN_INTERVAL_LOOP_TIME`` in ``dagster/_daemon/sensor.py``), and passes over a sensor
whose interval lacks a millisecond. So an interval of five would mostly become one of ten."""

SHOW_SECONDS: Final = 15
"""Between two looks at events that are only shown or reported."""

RECONCILE_SECONDS: Final = 60
"""Between two looks for missed events."""
