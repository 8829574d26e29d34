"""The command that takes a base from SageMaker JumpStart."""

from __future__ import annotations

import click

from contracts.errors import MalformedDocumentError
from tenantry.command_line.invocation import Invocation, NotDone, common_options


@click.command()
@click.argument("model")
@click.option("--version", help="Of the JumpStart model; its newest one if not given.")
@click.option(
    "--accept-eula", is_flag=True, help="You have read the model's licence and accept it."
)
@common_options
def base(invocation: Invocation, model: str, version: str | None, accept_eula: bool) -> None:
    """Copy the base that SageMaker JumpStart has under the id MODEL into the data bucket, and tell
    what a workload's file says to use it.

    JumpStart's artifact must hold a saved diffusers pipeline with safetensors weights. A base that
    was copied before is told again, and nothing is copied.

    \b
    Example:
      tenantry base model-txt2img-stabilityai-stable-diffusion-v2-1-base --accept-eula
    """
    from tenantry.training import jumpstart

    deployment = invocation.deployment
    try:
        artifact = jumpstart.find(deployment, model, version)
        if artifact.eula and not accept_eula:
            licence = (
                f"s3://{jumpstart.content_bucket(deployment.s3.meta.region_name)}/{artifact.eula}"
            )
            raise NotDone(
                f"{artifact.model} {artifact.version} has a licence; read {licence}, and repeat "
                f"this with --accept-eula"
            )
        uri = jumpstart.base_uri(deployment, artifact)
        copied = not jumpstart.is_there(deployment, artifact)
        if copied:
            with invocation.progress() as progress:
                bar = progress.add_task(f"{artifact.model} {artifact.version}: files", total=None)
                jumpstart.copy(deployment, artifact, lambda *_: progress.advance(bar))
    except (jumpstart.JumpStartError, MalformedDocumentError) as error:
        raise NotDone(str(error)) from error
    if invocation.as_json:
        document = {
            "format": 1,
            "model": artifact.model,
            "version": artifact.version,
            "artifact": artifact.uri,
            "base": uri,
            "copied": copied,
        }
        invocation.write_json(document)
        return
    invocation.say(f"{artifact.uri} is {'now' if copied else 'already'} at {uri}")
    invocation.say("Write into the workload's file:")
    invocation.say(f"  training: {{hyperparameters: {{base: {uri}}}}}")
    invocation.say(f"  serving: {{environment: {{TENANTRY_BASE: {uri}}}}}")
