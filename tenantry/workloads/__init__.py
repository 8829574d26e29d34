"""What a workload's YAML file may say."""
