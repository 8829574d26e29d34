"""The emulator and the buckets of tests/local_sagemaker, for clients in environments of their
own."""

from tests.local_sagemaker.conftest import bucket, emulator, s3

__all__ = ["bucket", "emulator", "s3"]
