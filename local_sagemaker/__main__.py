"""`python -m local_sagemaker`: run the emulator in the foreground until Ctrl-C or SIGTERM."""

import argparse
import logging
import os
from pathlib import Path

import boto3
import uvicorn

from local_sagemaker.app import application
from local_sagemaker.cloud import Settings
from local_sagemaker.http_server import AbandoningProtocol


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m local_sagemaker",
        description="Amazon SageMaker on one machine: training jobs, endpoints and batch transform run as processes. "
        "S3, SNS, CloudWatch and CloudWatch Logs are reached as every AWS client does, through AWS_ENDPOINT_URL.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    parser.add_argument("--state", type=Path, required=True, help="folder for what is remembered across restarts")
    parser.add_argument(
        "--containers",
        type=Path,
        required=True,
        help="folder of containers: an image …/NAME:TAG runs NAME/train or NAME/serve in it",
    )
    parser.add_argument(
        "--region",
        default=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        help="region in ARNs",
    )
    parser.add_argument(
        "--account-id", default=None, help="account id in ARNs; when it is not given, STS is asked at the start"
    )
    parser.add_argument(
        "--create-training-job-rate", type=float, default=1.0, help="CreateTrainingJob requests per second"
    )
    parser.add_argument("--create-training-job-burst", type=int, default=10, help="CreateTrainingJob requests at once")
    parser.add_argument(
        "--instance-quota",
        type=int,
        default=20,
        help="instances that training, endpoints and transform may each hold at once",
    )
    parser.add_argument(
        "--metrics-seconds", type=float, default=10.0, help="how often endpoint metrics are sent to CloudWatch"
    )
    parser.add_argument(
        "--model-disk-megabytes",
        type=int,
        default=2048,
        help="disk for the extracted models of one multi-model instance; what was used longest ago is deleted beyond it",
    )
    parser.add_argument(
        "--load-wait-seconds",
        type=float,
        default=60.0,
        help="how long an invocation waits for its model to be loaded before it is answered with ModelNotReadyException",
    )
    parser.add_argument(
        "--async-payload-megabytes",
        type=int,
        default=1024,
        help="the largest input object of an asynchronous request",
    )
    parser.add_argument(
        "--time-lapse",
        type=float,
        default=1.0,
        help="how many times as fast as on AWS the limits of invocations pass (the 60 seconds for a response, RequestTTLSeconds, "
        "InvocationTimeoutSeconds), so that tests need not wait for them",
    )
    parser.add_argument(
        "--provisioning-seconds",
        type=float,
        default=0.0,
        help="how long a training job is Starting before it has its instances",
    )
    parser.add_argument("--verbose", action="store_true", help="log every request")
    return parser.parse_args()


def main() -> None:
    """Parse the command line and serve."""
    arguments = _arguments()
    logging.basicConfig(
        level=logging.INFO if arguments.verbose else logging.WARNING, format="%(asctime)s %(name)s %(message)s"
    )
    settings = Settings(
        port=arguments.port,
        state=arguments.state,
        containers=arguments.containers.resolve(),
        region=arguments.region,
        account_id=arguments.account_id
        or boto3.client("sts", region_name=arguments.region).get_caller_identity()["Account"],
        create_training_job_rate=arguments.create_training_job_rate,
        create_training_job_burst=arguments.create_training_job_burst,
        instance_quota=arguments.instance_quota,
        metrics_seconds=arguments.metrics_seconds,
        load_wait_seconds=arguments.load_wait_seconds,
        model_disk_bytes=arguments.model_disk_megabytes * 1024 * 1024,
        async_payload_bytes=arguments.async_payload_megabytes * 1024 * 1024,
        time_lapse=arguments.time_lapse,
        provisioning_seconds=arguments.provisioning_seconds,
    )
    uvicorn.run(
        application(settings),
        host="127.0.0.1",
        port=arguments.port,
        loop="uvloop",
        http=AbandoningProtocol,
        log_level="info" if arguments.verbose else "warning",
        access_log=arguments.verbose,
        timeout_graceful_shutdown=3,
    )


if __name__ == "__main__":
    main()
