"""Every use of Dagster's private API: what may change with a release of Dagster stands here and
nowhere else."""
