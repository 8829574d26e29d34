"""Applies ``stack.yaml`` to the cloud that the AWS environment variables point at: AWS, or the
local one.

``python -m infrastructure.deploy`` prints the stack's outputs when it is done.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError

from infrastructure.template_body import TEMPLATE, template_body
from tenantry.aws.deployment import aws_session
from tenantry.aws.image_digests import join_image_digests

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient

_LEFT_BEHIND: Final = (
    "An earlier stack left that behind. On this machine `make clean` forgets it, with all else "
    "that `make run` keeps. "
    "On AWS import it into the new stack: docs/deploying-to-aws.md, step 1."
)
_DONE: Final = {"CREATE_COMPLETE", "UPDATE_COMPLETE"}


class DeploymentError(RuntimeError):
    """CloudFormation refused the stack or rolled it back; the message holds its reasons."""


def deploy(
    stack: str = "tenantry",
    prefix: str = "tenantry",
    *,
    image_digests: Mapping[str, str] | None = None,
    timeout: float = 900.0,
) -> Mapping[str, str]:
    """Create or update the stack and wait for it.

    Args:
        stack: name of the CloudFormation stack.
        prefix: starts the names of everything in it.
        image_digests: the digests of images by ``container:tag``; None keeps those it has.
        timeout: seconds to wait.

    Returns:
        The stack's outputs by name.

    Raises:
        DeploymentError: the stack ended in another state than complete, with the events that say
            why.
    """
    client: CloudFormationClient = aws_session().client("cloudformation")
    template = template_body(TEMPLATE)
    pins = None if image_digests is None else join_image_digests(image_digests)
    # A deleted stack, as after a failed creation, can only be described by its id.
    # https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_DescribeStacks.html
    try:
        found = client.describe_stacks(StackName=stack)["Stacks"][0]
        arn, exists = found["StackId"], True
        if pins is None:
            before = {each["ParameterKey"]: each for each in found.get("Parameters", [])}
            pins = before.get("ImageDigests", {}).get("ParameterValue")
    except ClientError as error:
        if "does not exist" not in str(error):
            raise
        arn, exists = stack, False
    parameters = [
        {"ParameterKey": "Prefix", "ParameterValue": prefix},
        {"ParameterKey": "ImageDigests", "ParameterValue": pins or ""},
    ]
    try:
        if exists:
            client.update_stack(
                StackName=stack,
                TemplateBody=template,
                # A plain dict is the TypedDict asked for.
                Parameters=parameters,  # type: ignore[arg-type]
                Capabilities=["CAPABILITY_IAM"],
            )
        else:
            created = client.create_stack(
                StackName=stack,
                TemplateBody=template,
                # A plain dict is the TypedDict asked for.
                Parameters=parameters,  # type: ignore[arg-type]
                Capabilities=["CAPABILITY_IAM"],
                OnFailure="DELETE",
            )
            arn = created["StackId"]
    except ClientError as error:
        if "No updates are to be performed" not in str(error):
            raise DeploymentError(f"CloudFormation refused stack {stack!r}: {error}") from error
    return _wait(client, arn, timeout)


def _wait(client: CloudFormationClient, stack: str, timeout: float) -> Mapping[str, str]:
    deadline = time.monotonic() + timeout
    pause = 0.1
    while time.monotonic() < deadline:
        found = client.describe_stacks(StackName=stack)["Stacks"][0]
        status = found["StackStatus"]
        if status in _DONE:
            return {
                output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])
            }
        if not status.endswith("_IN_PROGRESS"):
            raise DeploymentError(f"stack {stack!r} ended as {status}:\n{_reasons(client, stack)}")
        time.sleep(pause)
        pause = min(pause * 1.5, 5.0)
    raise DeploymentError(
        f"stack {stack!r} was not complete after {timeout:.0f} s:\n{_reasons(client, stack)}"
    )


def _reasons(client: CloudFormationClient, stack: str) -> str:
    events = client.describe_stack_events(StackName=stack)["StackEvents"]
    failed = [event for event in events if event.get("ResourceStatus", "").endswith("FAILED")]
    lines = [
        f"  {e.get('LogicalResourceId')}: {e.get('ResourceStatusReason', 'no reason given')}"
        for e in failed
    ]
    # Faults that were found before any resource was made are in other events.
    # https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/validate-stack-deployments.html
    found = client.describe_events(StackName=stack, Filters={"FailedEvents": True})[
        "OperationEvents"
    ]
    invalid = [event for event in found if event.get("ValidationStatus") == "FAILED"]
    lines += [
        f"  {e.get('LogicalResourceId')}: {e.get('ValidationStatusReason', 'no reason given')}"
        for e in invalid
    ]
    if any(event.get("ValidationName") == "NAME_CONFLICT_VALIDATION" for event in invalid):
        lines.append(_LEFT_BEHIND)
    return "\n".join(lines)


def main() -> int:
    """Command line of the module."""
    parser = argparse.ArgumentParser(prog="python -m infrastructure.deploy", description=__doc__)
    parser.add_argument(
        "--stack",
        default="tenantry",
        help="name of the CloudFormation stack (default: %(default)s)",
    )
    parser.add_argument(
        "--prefix",
        default="tenantry",
        help="starts the names of all it makes (default: %(default)s)",
    )
    arguments = parser.parse_args()
    try:
        outputs = deploy(arguments.stack, arguments.prefix)
    except DeploymentError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except (BotoCoreError, ClientError) as error:
        sys.stderr.write(
            f"AWS cannot be asked: {error} Check the credentials, and AWS_REGION or "
            f"AWS_DEFAULT_REGION.\n"
        )
        return 1
    width = max(map(len, outputs))
    sys.stdout.writelines(f"{name:<{width}}  {value}\n" for name, value in sorted(outputs.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
