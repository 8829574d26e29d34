"""The Dagster resources: the deployment and the clients of SageMaker, as assets, sensors and
schedules ask for them."""
