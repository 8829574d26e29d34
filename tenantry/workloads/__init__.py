"""The content of a workload's YAML file, and its checks."""
