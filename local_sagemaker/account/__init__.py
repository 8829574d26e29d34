"""The parts that the whole emulator shares: settings, stored resources, quotas, bills, tags, S3,
logs and metrics."""
