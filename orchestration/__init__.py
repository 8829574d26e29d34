"""When things run: definitions, partitions, jobs, sensors, schedules, checks."""
