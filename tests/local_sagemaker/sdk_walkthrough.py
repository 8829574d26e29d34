"""Acts as a user of the SageMaker SDK, from training to batch transform. It runs as a script with a
bucket's name, and prints the results."""

import json
import sys
from typing import Any

from sagemaker.core.resources import Endpoint, EndpointConfig, Model, TrainingJob, TransformJob
from sagemaker.core.shapes import (
    AlgorithmSpecification,
    ContainerDefinition,
    OutputDataConfig,
    ProductionVariant,
    ResourceConfig,
    StoppingCondition,
    TransformDataSource,
    TransformInput,
    TransformOutput,
    TransformResources,
    TransformS3DataSource,
)

ROLE = "arn:aws:iam::123456789012:role/execution"
REGISTRY = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"


def main(bucket: str) -> dict[str, Any]:
    """Train, serve, invoke, transform and clean up."""
    job = TrainingJob.create(
        training_job_name="sdk-job",
        role_arn=ROLE,
        algorithm_specification=AlgorithmSpecification(
            training_image=f"{REGISTRY}/recorder:1", training_input_mode="File"
        ),
        output_data_config=OutputDataConfig(s3_output_path=f"s3://{bucket}/out"),
        resource_config=ResourceConfig(
            instance_type="ml.m5.large", instance_count=1, volume_size_in_gb=1
        ),
        stopping_condition=StoppingCondition(max_runtime_in_seconds=60),
        hyper_parameters={"depth": "3"},
    )
    job.wait(poll=1)
    model = Model.create(
        model_name="sdk-model",
        primary_container=ContainerDefinition(
            image=f"{REGISTRY}/echo:1",
            model_data_url=job.model_artifacts.s3_model_artifacts,
            environment={"ECHO_AS_IS": "1"},
        ),
        execution_role_arn=ROLE,
    )
    config = EndpointConfig.create(
        endpoint_config_name="sdk-config",
        production_variants=[
            ProductionVariant(
                variant_name="all",
                model_name="sdk-model",
                initial_instance_count=1,
                instance_type="ml.m5.large",
            )
        ],
    )
    endpoint = Endpoint.create(endpoint_name="sdk-endpoint", endpoint_config_name="sdk-config")
    endpoint.wait_for_status("InService", poll=1)
    answer = endpoint.invoke(body=b"hello", content_type="text/plain")
    transform = TransformJob.create(
        transform_job_name="sdk-transform",
        model_name="sdk-model",
        transform_input=TransformInput(
            data_source=TransformDataSource(
                s3_data_source=TransformS3DataSource(
                    s3_data_type="S3Prefix", s3_uri=f"s3://{bucket}/in/"
                )
            )
        ),
        transform_output=TransformOutput(s3_output_path=f"s3://{bucket}/transformed"),
        transform_resources=TransformResources(instance_type="ml.m5.large", instance_count=1),
    )
    transform.wait(poll=1)
    seen = {
        "training": job.training_job_status,
        "listed": [
            found.training_job_name for found in TrainingJob.get_all(name_contains="sdk-job")
        ],
        "answer": answer.body.read().decode(),
        "content_type": answer.content_type,
        "transform": transform.transform_job_status,
    }
    endpoint.delete()
    endpoint.wait_for_delete(poll=1)
    config.delete()
    model.delete()
    return seen


if __name__ == "__main__":
    sys.stdout.write(f"\n{json.dumps(main(sys.argv[1]))}\n")
