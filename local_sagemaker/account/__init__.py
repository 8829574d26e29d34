"""What the parts of the emulator share: settings, remembered resources, quotas, bills, tags, S3,
logs and metrics."""
