"""Acts as a user of the SageMaker SDK's pipelines. It runs as a script with a bucket's name, and
prints the results."""

import json
import sys
from typing import Any

from sagemaker.core.processing import Processor
from sagemaker.core.shapes import (
    ProcessingInput,
    ProcessingOutput,
    ProcessingS3Input,
    ProcessingS3Output,
)
from sagemaker.core.workflow.conditions import ConditionEquals, ConditionGreaterThan, ConditionNot
from sagemaker.core.workflow.functions import Join, JsonGet
from sagemaker.core.workflow.parameters import ParameterInteger, ParameterString
from sagemaker.core.workflow.pipeline_context import PipelineSession
from sagemaker.core.workflow.properties import PropertyFile
from sagemaker.mlops.workflow.condition_step import ConditionStep
from sagemaker.mlops.workflow.fail_step import FailStep
from sagemaker.mlops.workflow.pipeline import Pipeline
from sagemaker.mlops.workflow.steps import ProcessingStep

ROLE = "arn:aws:iam::123456789012:role/execution"
IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/processor:1"


def main(bucket: str) -> dict[str, Any]:
    """Process, decide, process again or fail."""
    session = PipelineSession(default_bucket=bucket)
    score = ParameterString(name="Score", default_value="good")
    hosts = ParameterInteger(name="Hosts", default_value=1)

    def step(name: str, uri: Any, **more: Any) -> ProcessingStep:
        processor = Processor(
            role=ROLE,
            image_uri=IMAGE,
            instance_count=hosts,
            instance_type="ml.m5.large",
            volume_size_in_gb=1,
            sagemaker_session=session,
            env={"SCORE": score},
        )
        source = ProcessingS3Input(
            s3_uri=uri,
            local_path="/opt/ml/processing/input/data",
            s3_data_type="S3Prefix",
            s3_input_mode="File",
        )
        target = ProcessingS3Output(
            s3_uri=f"s3://{bucket}/{name}",
            local_path="/opt/ml/processing/output/records",
            s3_upload_mode="EndOfJob",
        )
        arguments = processor.run(
            inputs=[ProcessingInput(input_name="data", s3_input=source)],
            outputs=[ProcessingOutput(output_name="records", s3_output=target)],
            arguments=["--split", "0.2"],
        )
        return ProcessingStep(name=name, step_args=arguments, **more)

    report = PropertyFile(name="report", output_name="records", path="algo-1.json")
    first = step("First", f"s3://{bucket}/in/", property_files=[report])
    outputs = first.properties.ProcessingOutputConfig.Outputs
    second = step("Second", outputs["records"].S3Output.S3Uri)
    found = JsonGet(step_name="First", property_file=report, json_path="job.Environment.SCORE")
    decision = ConditionStep(
        name="Decide",
        conditions=[
            ConditionEquals(left=found, right="good"),
            ConditionNot(ConditionGreaterThan(left=hosts, right=1)),
        ],
        if_steps=[second],
        else_steps=[FailStep(name="Stop", error_message=Join(on=" ", values=["score", score]))],
    )
    pipeline = Pipeline(
        name="sdk-pipeline",
        parameters=[score, hosts],
        steps=[first, decision],
        sagemaker_session=session,
    )
    pipeline.upsert(role_arn=ROLE)
    pipeline.upsert(role_arn=ROLE)  # which updates
    good = pipeline.start()
    good.wait(delay=1)
    bad = pipeline.start(parameters={"Score": "bad"})
    reason = ""
    try:
        bad.wait(delay=1)
    except Exception as error:  # noqa: BLE001 - the waiter's own class
        reason = type(error).__name__
    steps = {step["StepName"]: step for step in bad.list_steps()}
    result = {
        "good": good.describe()["PipelineExecutionStatus"],
        "steps": [step["StepName"] for step in good.list_steps()],
        "bad": bad.describe()["FailureReason"],
        "waiter": reason,
        "message": steps["Stop"]["FailureReason"],
    }
    pipeline.delete()
    return result


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1])) + "\n")
