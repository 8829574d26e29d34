"""Every use of Dagster's private API: code that a release of Dagster may break stands here and
nowhere else."""
