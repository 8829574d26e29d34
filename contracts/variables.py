"""The environment variables by which the control plane tells a serving container how to serve."""

from __future__ import annotations

from typing import Final

MODELS_URI: Final = "TENANTRY_MODELS_URI"
"""``s3://bucket/prefix/`` of the archives that records name."""
