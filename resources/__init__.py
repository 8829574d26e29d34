"""How the outside is reached: S3, the request queue, the model registry, SageMaker, notices, and the tenant-facing client."""
