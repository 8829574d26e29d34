"""Every S3 key, table key, SageMaker name and TargetModel."""
