"""The limits on the documents' sizes, for their writers and their readers."""

from __future__ import annotations

from typing import Final

FORMAT: Final = 1
"""The format of every document here. A later format is for documents that older releases would
misread."""

# ---- the task list of a packed training job ------------------------------------------------------

TASKS_BYTES: Final = 64 * 1024 * 1024
MAX_TASKS: Final = 100_000
PARAMETERS_BYTES: Final = 16 * 1024
"""The parameters of one task, as JSON."""
DATA_CHARACTERS: Final = 512

# ---- the outcome of a task -----------------------------------------------------------------------

OUTCOME_BYTES: Final = 256 * 1024
CARD_BYTES: Final = 64 * 1024
REASON_CHARACTERS: Final = 2000
MAX_FILES: Final = 64
"""Files beside an archive."""
FILE_BYTES: Final = 16 * 1024 * 1024
FILES_BYTES: Final = 128 * 1024 * 1024
"""All files beside an archive together."""

# ---- the batches of a serving container ----------------------------------------------------------

BATCH_REQUESTS: Final = 1024
"""Requests that one call of a model answers at most."""
BATCH_WAIT_MS: Final = 1000
"""The longest wait for a batch to fill, in milliseconds. A real-time answer has 60 seconds in
all."""
