"""`python -m local_sagemaker`: run the emulator in the foreground until Ctrl-C or SIGTERM."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import boto3
import uvicorn

from local_sagemaker.account.cloud import Settings
from local_sagemaker.account.prices import read_discount, read_prices
from local_sagemaker.account.provisioning import ProvisioningDelay
from local_sagemaker.account.rates import USAGES, TypeQuota
from local_sagemaker.clock import LAPSES
from local_sagemaker.http.app import application
from local_sagemaker.http.members import tables
from local_sagemaker.http.operations import page
from local_sagemaker.http.server import AbandoningProtocol
from local_sagemaker.processes.launch import ImagesError
from local_sagemaker.serverless.cold_starts import ColdStarts


class _Print(argparse.Action):
    """Print the text that `const` makes and exit, as --help does."""

    def __init__(self, option_strings: Sequence[str], dest: str, **more: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **more)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        sys.stdout.write(self.const())
        parser.exit()


def parse_arguments(command_line: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, by default this process's own. A wrong command line ends the process with
    status 2 and a reason."""
    parser = argparse.ArgumentParser(
        prog="python -m local_sagemaker",
        description="Amazon SageMaker on one machine: training jobs, endpoints, batch transform "
        "and processing jobs run as processes, from folders or from images. "
        "S3, SNS and CloudWatch Logs are reached as every AWS client does, through "
        "AWS_ENDPOINT_URL.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    parser.add_argument(
        "--state", type=Path, required=True, help="folder for what is remembered across restarts"
    )
    parser.add_argument(
        "--containers",
        type=Path,
        default=None,
        help="folder of containers: an image …/NAME:TAG runs NAME/train, NAME/serve or "
        "NAME/process in it",
    )
    parser.add_argument(
        "--images",
        action="store_true",
        help="run containers from images that docker, or without its daemon buildah, keeps on this "
        "machine; an image …/NAME:TAG is the one of that whole name, else NAME:TAG",
    )
    parser.add_argument(
        "--region",
        default=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        help="region in ARNs",
    )
    parser.add_argument(
        "--account-id",
        default=None,
        help="account id in ARNs; when it is not given, STS is asked at the start",
    )
    parser.add_argument(
        "--create-training-job-rate",
        type=float,
        default=1.0,
        help="CreateTrainingJob requests in each of AWS's seconds, and as many of "
        "CreateProcessingJob",
    )
    parser.add_argument(
        "--create-training-job-burst",
        type=int,
        default=10,
        help="CreateTrainingJob requests at once, and as many of CreateProcessingJob",
    )
    parser.add_argument(
        "--instance-quota",
        type=int,
        default=20,
        help="instances of all types that training, endpoints, transform and processing may each "
        "hold at once on this machine",
    )
    parser.add_argument(
        "--metrics-seconds",
        type=float,
        default=10.0,
        help="how many of this machine's seconds pass before the samples of endpoints are taken "
        "and metrics are written to the state folder, each time",
    )
    parser.add_argument(
        "--model-disk-megabytes",
        type=int,
        default=2048,
        help="disk for the extracted models of one multi-model instance; beyond it, the least used "
        "are deleted",
    )
    parser.add_argument(
        "--load-wait-seconds",
        type=float,
        default=60.0,
        help="how many of this machine's seconds an invocation waits for its model to be loaded "
        "before it is answered with ModelNotReadyException",
    )
    parser.add_argument(
        "--async-payload-megabytes",
        type=int,
        default=1024,
        help="the largest input object of an asynchronous request",
    )
    parser.add_argument(
        "--time-lapse",
        type=int,
        choices=LAPSES,
        metavar=f"{LAPSES[0]}..{LAPSES[-1]}",
        default=1,
        help="AWS's seconds pass so many times as fast as this machine's: limits of invocations "
        "and jobs, minutes of metrics, alarms and policies, cooldowns, warm pools, provisioning, "
        "latencies and the bill; moments and scheduled actions keep to the machine's clock",
    )
    parser.add_argument(
        "--provisioning-seconds",
        type=float,
        default=0.0,
        help="how many of AWS's seconds a training or processing job waits for its instances",
    )
    parser.add_argument(
        "--endpoint-provisioning-seconds",
        action="append",
        default=[],
        metavar="[ENDPOINT=]LEAST[:MOST]",
        help="how many of AWS's seconds an endpoint waits for each instance before its container "
        "starts, drawn between the two; ENDPOINT is a name with * and ?; may be repeated, and the "
        "last that matches counts",
    )
    parser.add_argument(
        "--quota",
        action="append",
        default=[],
        metavar="'TYPE for USAGE usage=NUMBER'",
        help=f"instances of one type that one usage may hold, as AWS names its quotas; may be "
        f"repeated. Usages: {', '.join(USAGES)}",
    )
    parser.add_argument(
        "--warm-pool-quota",
        type=int,
        default=0,
        help="instances of each type that may wait in warm pools, where no --quota says otherwise; "
        "0 as in a new account",
    )
    parser.add_argument(
        "--prices",
        type=Path,
        default=None,
        help="YAML or JSON file with prices for GET /_local/bill, in the place of those that the "
        "emulator knows: by the hour for an instance type, by the unit for the other lines",
    )
    parser.add_argument(
        "--currency",
        default="USD",
        help="the currency of the bill; in another one than USD, only the prices of --prices count",
    )
    parser.add_argument(
        "--discount",
        action="append",
        default=[],
        metavar="USAGE=SHARE",
        help="share of the price of one usage's instances that a Savings Plan takes off; may be "
        "repeated",
    )
    _add_serverless(parser)
    parser.add_argument(
        "--spot-billed-share",
        type=float,
        default=0.3,
        help="share of its training time that a managed spot job is billed",
    )
    parser.add_argument(
        "--ping-seconds",
        type=float,
        default=5.0,
        help="how many of this machine's seconds lie between two pings of a serving container",
    )
    parser.add_argument(
        "--failed-pings",
        type=int,
        default=6,
        help="how many pings in a row a serving container leaves unanswered (2 seconds each) "
        "before it is replaced",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME[:PORT]",
        help="a further name in the Host header of requests, beside loopback addresses; may be "
        "repeated",
    )
    parser.add_argument(
        "--operations",
        action=_Print,
        const=tables,
        help="print what is refused and what is without effect, and exit",
    )
    parser.add_argument(
        "--all-operations",
        action=_Print,
        const=page,
        help="print every operation of the services: executed, refused with its reason, or "
        "unknown; and exit",
    )
    parser.add_argument("--verbose", action="store_true", help="log every request")
    arguments = parser.parse_args(command_line)
    if arguments.images == (arguments.containers is not None):
        parser.error("name a folder with --containers, or say --images; one of the two")
    try:
        arguments.endpoint_provisioning_seconds = tuple(
            ProvisioningDelay.parse(text) for text in arguments.endpoint_provisioning_seconds
        )
        arguments.quota = tuple(TypeQuota.parse(text) for text in arguments.quota)
        arguments.discount = dict(read_discount(text) for text in arguments.discount)
        ColdStarts(
            arguments.serverless_setup_seconds,
            arguments.serverless_setup_seconds_per_gib,
            arguments.serverless_setup_sigma,
        )
        arguments.prices = read_prices(arguments.prices) if arguments.prices else None
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return arguments


def _add_serverless(parser: argparse.ArgumentParser) -> None:
    for name, kind, default, words in (
        (
            "idle-seconds",
            float,
            420.0,
            "how many of AWS's seconds a serverless endpoint's environment may be idle",
        ),
        (
            "setup-seconds",
            float,
            1.5,
            "median of AWS's seconds that a new environment takes beyond the start of its process",
        ),
        (
            "setup-seconds-per-gib",
            float,
            4.0,
            "what each GiB of image and model data adds to that median",
        ),
        (
            "setup-sigma",
            float,
            0.25,
            "standard deviation of the logarithm of these seconds; 0 for the median each time",
        ),
        ("setup-seed", int, None, "seed of these seconds; without it they differ in each run"),
    ):
        parser.add_argument(f"--serverless-{name}", type=kind, default=default, help=words)


def main() -> None:
    """Parse the command line and serve."""
    arguments = parse_arguments()
    logging.basicConfig(
        level=logging.INFO if arguments.verbose else logging.WARNING,
        format="%(asctime)s %(name)s %(message)s",
    )
    settings = Settings(
        port=arguments.port,
        state=arguments.state.resolve(),
        containers=arguments.containers.resolve() if arguments.containers else None,
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
        endpoint_provisioning=arguments.endpoint_provisioning_seconds,
        type_quotas=arguments.quota,
        warm_pool_quota=arguments.warm_pool_quota,
        prices=arguments.prices,
        currency=arguments.currency,
        discounts=arguments.discount,
        serverless_idle_seconds=arguments.serverless_idle_seconds,
        serverless_setup_seconds=arguments.serverless_setup_seconds,
        serverless_setup_seconds_per_gib=arguments.serverless_setup_seconds_per_gib,
        serverless_setup_sigma=arguments.serverless_setup_sigma,
        serverless_setup_seed=arguments.serverless_setup_seed,
        spot_billed_share=arguments.spot_billed_share,
        ping_seconds=arguments.ping_seconds,
        failed_pings=arguments.failed_pings,
        allowed_hosts=tuple(arguments.allow_host),
    )
    try:
        served = application(settings)
    except ImagesError as error:
        sys.exit(f"{error}")
    uvicorn.run(
        served,
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
