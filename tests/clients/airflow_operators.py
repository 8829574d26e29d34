"""Runs Airflow's SageMaker operators in Airflow's environment with a bucket's name, and prints the
results."""

import json
import sys
from typing import Any

import boto3
from airflow.exceptions import AirflowException
from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.providers.amazon.aws.operators.sagemaker import (
    SageMakerDeleteModelOperator,
    SageMakerEndpointConfigOperator,
    SageMakerEndpointOperator,
    SageMakerModelOperator,
    SageMakerTrainingOperator,
    SageMakerTransformOperator,
)
from airflow.providers.amazon.aws.sensors.sagemaker import SageMakerTrainingSensor

ROLE = "arn:aws:iam::123456789012:role/execution"
REGISTRY = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
COMMON: dict[str, Any] = {"aws_conn_id": None, "region_name": "eu-west-1"}
WAITING: dict[str, Any] = {"wait_for_completion": True, "check_interval": 1}


def main(bucket: str) -> dict[str, Any]:
    """Train, create a model, serve, transform and clean up, like the tasks of a DAG."""
    prefix = bucket.removeprefix("test-")
    training = {
        "TrainingJobName": f"{prefix}-job",
        "AlgorithmSpecification": {
            "TrainingImage": f"{REGISTRY}/recorder:1",
            "TrainingInputMode": "File",
        },
        "RoleArn": ROLE,
        "OutputDataConfig": {"S3OutputPath": f"s3://{bucket}/out"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
    }
    first = SageMakerTrainingOperator(
        task_id="train", config=dict(training), print_log=False, **WAITING, **COMMON
    ).execute({})
    sensed = SageMakerTrainingSensor(
        task_id="sense", job_name=training["TrainingJobName"], print_log=False, **COMMON
    ).poke({})
    # Use the same name again: the operator finds the job, and gives the new job another name.
    again = SageMakerTrainingOperator(
        task_id="again",
        config=dict(training),
        print_log=False,
        action_if_job_exists="timestamp",
        **WAITING,
        **COMMON,
    ).execute({})
    failing = {
        **training,
        "TrainingJobName": f"{prefix}-failing",
        "HyperParameters": {"fail_on": "all", "failure": "no column y"},
    }
    try:
        SageMakerTrainingOperator(
            task_id="fail", config=failing, print_log=False, **WAITING, **COMMON
        ).execute({})
        failure = ""
    except AirflowException as error:
        failure = str(error)
    model: dict[str, Any] = {
        "ModelName": f"{prefix}-model",
        "PrimaryContainer": {"Image": f"{REGISTRY}/echo:1", "Environment": {"ECHO_AS_IS": "1"}},
        "ExecutionRoleArn": ROLE,
    }
    SageMakerModelOperator(task_id="model", config=model, **COMMON).execute({})
    config: dict[str, Any] = {
        "EndpointConfigName": f"{prefix}-config",
        "ProductionVariants": [
            {
                "VariantName": "v",
                "ModelName": model["ModelName"],
                "InitialInstanceCount": 1,
                "InstanceType": "ml.m5.large",
            }
        ],
    }
    SageMakerEndpointConfigOperator(task_id="config", config=config, **COMMON).execute({})
    endpoint: dict[str, Any] = {
        "EndpointName": f"{prefix}-endpoint",
        "EndpointConfigName": config["EndpointConfigName"],
    }
    SageMakerEndpointOperator(
        task_id="endpoint", config={"Endpoint": endpoint}, operation="create", **WAITING, **COMMON
    ).execute({})
    answer = boto3.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=endpoint["EndpointName"], Body=b"hello"
    )
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{bucket}/in/"}}
    transform = {
        "TransformJobName": f"{prefix}-transform",
        "ModelName": model["ModelName"],
        "TransformInput": {"DataSource": source},
        "TransformOutput": {"S3OutputPath": f"s3://{bucket}/transformed"},
        "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
    }
    SageMakerTransformOperator(task_id="transform", config=transform, **WAITING, **COMMON).execute(
        {}
    )
    status = SageMakerHook(**COMMON).describe_transform_job(transform["TransformJobName"])[
        "TransformJobStatus"
    ]
    client = boto3.client("sagemaker")
    client.delete_endpoint(EndpointName=endpoint["EndpointName"])
    SageMakerDeleteModelOperator(
        task_id="delete", config={"ModelName": model["ModelName"]}, **COMMON
    ).execute({})
    return {
        "training": json.loads(json.dumps(first, default=str))["Training"]["TrainingJobStatus"],
        "sensed": bool(sensed),
        "renamed": again["Training"]["TrainingJobName"] != training["TrainingJobName"],
        "failure": "no column y" in failure,
        "answer": answer["Body"].read().decode(),
        "transform": status,
        "models": len(client.list_models(NameContains=model["ModelName"])["Models"]),
    }


if __name__ == "__main__":
    sys.stdout.write(f"\n{json.dumps(main(sys.argv[1]))}\n")
