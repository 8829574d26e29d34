"""The emulator and the buckets of tests/local_sagemaker, for clients in separate environments."""

from tests.local_sagemaker.conftest import bucket, emulator, s3

__all__ = ["bucket", "emulator", "s3"]
