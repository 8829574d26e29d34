"""The environment variables by which the control plane tells a serving container how to serve, and
a processing job what to do."""

from __future__ import annotations

from typing import Final

MODELS_URI: Final = "TENANTRY_MODELS_URI"
"""``s3://bucket/prefix/`` of the archives that records name."""
VERSION: Final = "TENANTRY_VERSION"
"""The version of the one model that the container serves. Its answers say so, in the header
``VERSION_HEADER``."""
ANSWER_DIGESTS: Final = "TENANTRY_ANSWER_DIGESTS"
"""``true``: the log has a line for each answer, ``answer_digest`` with ``request=`` and
``answer=``, the hexadecimal SHA-256 of both. A shadow's answers are compared by them."""
MAX_BATCH: Final = "TENANTRY_MAX_BATCH"
"""The most requests that one call of the model answers (``limits.BATCH_REQUESTS``); 1, the default,
for each by itself."""
MAX_WAIT_MS: Final = "TENANTRY_MAX_WAIT_MS"
"""How long a request waits for others while the model is idle (``limits.BATCH_WAIT_MS``), in
milliseconds; 0, the default, for not at all."""
VERSION_HEADER: Final = "X-Amzn-SageMaker-Custom-Attributes"
"""SageMaker hands it on to the caller: API_runtime_InvokeEndpoint, CustomAttributes."""
VERSION_ATTRIBUTE: Final = "tenantry-version"
"""The header's value is this name, an equals sign, and the version."""
PROCESS: Final = "TENANTRY_PROCESS"
"""Of a processing job: ``evaluate`` a served model on newer data, or ``split`` a file of many
customers, the default."""
SPLIT_CUSTOMERS: Final = "TENANTRY_SPLIT_CUSTOMERS"
"""Of a processing job: the column that names the customer of each row of the file to split."""
