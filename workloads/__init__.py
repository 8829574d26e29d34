"""What the product offers: one YAML file per workload and the schema that reads it."""
