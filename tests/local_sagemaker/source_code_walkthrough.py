"""Acts as a user of SDK 3's ModelTrainer with their own code. It runs as a script with a bucket's
name, and prints the results.

The scripts that the SDK adds have absolute paths below `/opt/ml`.
"""

import json
import sys
import tempfile
from pathlib import Path

from sagemaker.core.helper.session_helper import Session
from sagemaker.core.training.configs import (
    Compute,
    InputData,
    OutputDataConfig,
    SourceCode,
    StoppingCondition,
)
from sagemaker.train import ModelTrainer

CODE = """
import json, os, pathlib
found = pathlib.Path("/opt/ml/input/data/training/a.txt").read_text()
pathlib.Path(os.environ["SM_MODEL_DIR"], "found.txt").write_text(found.upper())
"""


def main(bucket: str) -> dict[str, str]:
    """Train with a source folder and read the model's archive."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "train.py").write_text(CODE)
        trainer = ModelTrainer(
            training_image="123456789012.dkr.ecr.eu-west-1.amazonaws.com/recorder:1",
            role="arn:aws:iam::123456789012:role/execution",
            base_job_name="source-code",
            sagemaker_session=Session(default_bucket=bucket),
            source_code=SourceCode(source_dir=folder, entry_script="train.py"),
            compute=Compute(instance_type="ml.m5.large", instance_count=1, volume_size_in_gb=1),
            stopping_condition=StoppingCondition(max_runtime_in_seconds=60),
            output_data_config=OutputDataConfig(s3_output_path=f"s3://{bucket}/out"),
        )
        trainer.train(
            input_data_config=[
                InputData(channel_name="training", data_source=f"s3://{bucket}/in/")
            ],
            logs=False,
        )
    job = trainer._latest_training_job
    job.refresh()
    return {"status": job.training_job_status, "model": job.model_artifacts.s3_model_artifacts}


if __name__ == "__main__":
    sys.stdout.write(f"\n{json.dumps(main(sys.argv[1]))}\n")
