"""Acts as a user of SageMaker's SDK 2, in that SDK's environment with a bucket's name, and prints
the results."""

import io
import json
import sys
import tarfile
from typing import Any

import boto3
import sagemaker
from sagemaker.deserializers import JSONDeserializer
from sagemaker.estimator import Estimator
from sagemaker.model import Model
from sagemaker.multidatamodel import MultiDataModel
from sagemaker.predictor import Predictor
from sagemaker.serializers import CSVSerializer
from sagemaker.transformer import Transformer

ROLE = "arn:aws:iam::123456789012:role/execution"
REGISTRY = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"


def main(bucket: str) -> dict[str, Any]:
    """Fit, attach, deploy, predict, transform, serve several models, and clean up."""
    prefix = bucket.removeprefix("test-")
    s3 = boto3.client("s3")
    session = sagemaker.Session(default_bucket=bucket)
    common: dict[str, Any] = {"role": ROLE, "sagemaker_session": session}
    # The profiler is on unless it is switched off, and is not emulated.
    estimator = Estimator(
        f"{REGISTRY}/recorder:1",
        instance_count=1,
        instance_type="ml.m5.large",
        output_path=f"s3://{bucket}/out",
        hyperparameters={"depth": 3},
        base_job_name=prefix,
        disable_profiler=True,
        enable_infra_check=False,
        enable_remote_debug=False,
        tags=[{"Key": "tenant", "Value": "acme"}],
        max_run=60,
        **common,
    )
    estimator.fit({"training": f"s3://{bucket}/in/"}, logs=False)
    attached = Estimator.attach(estimator.latest_training_job.name, sagemaker_session=session)
    predictor = estimator.deploy(
        1,
        "ml.m5.large",
        image_uri=f"{REGISTRY}/echo:1",
        serializer=CSVSerializer(),
        deserializer=JSONDeserializer(),
        endpoint_name=f"{prefix}-endpoint",
    )
    answer = predictor.predict([[1, 2]])["body"]
    model = Model(
        f"{REGISTRY}/echo:1", model_data=estimator.model_data, env={"ECHO_AS_IS": "1"}, **common
    )
    model.create(instance_type="ml.m5.large")
    transformer = Transformer(
        model.name,
        1,
        "ml.m5.large",
        output_path=f"s3://{bucket}/transformed//",
        sagemaker_session=session,
    )
    transformer.transform(f"s3://{bucket}/in/", content_type="text/plain", logs=False)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        member = tarfile.TarInfo("weights")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"1"))
    s3.put_object(Bucket=bucket, Key="many/a.tar.gz", Body=archive.getvalue())
    many = MultiDataModel(
        f"{prefix}-many",
        f"s3://{bucket}/many/",
        image_uri=f"{REGISTRY}/echo:1",
        predictor_cls=Predictor,
        **common,
    )
    several = many.deploy(
        1,
        "ml.m5.large",
        serializer=CSVSerializer(),
        deserializer=JSONDeserializer(),
        endpoint_name=f"{prefix}-many",
    )
    files = several.predict([[1]], target_model="/a.tar.gz")["files"]
    seen = {
        "attached": [
            attached.image_uri,
            attached.hyperparameters(),
            attached.output_path,
            attached.model_data,
        ],
        "answer": answer,
        "attached_transformer": Transformer.attach(
            transformer.latest_transform_job.name, session
        ).output_path,
        "models": list(many.list_models()),
        "files": files,
    }
    for deployed in (predictor, several):
        deployed.delete_endpoint()
    return seen


if __name__ == "__main__":
    sys.stdout.write(f"\n{json.dumps(main(sys.argv[1]))}\n")
