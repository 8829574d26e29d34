"""How often sensors tick whose moments are of one kind."""

from typing import Final

TICK_SECONDS: Final = 5
"""Between two looks at what somebody waits for."""

SHOW_SECONDS: Final = 15
"""Between two looks at what is only to be shown or told."""

RECONCILE_SECONDS: Final = 60
"""Between two looks at whether anything was missed."""
