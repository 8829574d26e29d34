"""A Dagster Pipes client for Amazon SageMaker training jobs."""
