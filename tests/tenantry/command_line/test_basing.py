"""A base from a bucket of JumpStart's form, which the ``sagemaker`` library reads too."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from containers.diffusion.base.pipeline import KINDS, TINY_FOLDER, digest_of_weights, load_base
from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.training import jumpstart as jumpstart_models
from tenantry.training.jumpstart import content_bucket
from tests.pipes_sagemaker.broken_calls import break_calls
from tests.tenantry.command_line.conftest import Call, caller, document

MODEL = "model-txt2img-tiny"
TAKEN = (".json", ".txt", ".safetensors")
TRAINED = "tiny-training/train-model-txt2img-tiny.tar.gz"
SERVED = "tiny-infer/prepack/v2/"
SCRIPTED = "tiny-infer/infer-model-txt2img-tiny.tar.gz"


def spec(version: str, **changes: Any) -> dict[str, Any]:
    """A specification with the fields that the library needs."""
    ecr = {"framework": "pytorch", "framework_version": "2.0.0", "py_version": "py310"}
    return {
        "model_id": MODEL,
        "url": "https://example.org",
        "version": version,
        "min_sdk_version": "2.0.0",
        "incremental_training_supported": False,
        "training_supported": True,
        "hosting_ecr_specs": ecr,
        "hosting_artifact_key": SCRIPTED,
        "hosting_script_key": "scripts/serve.tar.gz",
        "hosting_prepacked_artifact_key": SERVED,
        "hosting_use_script_uri": False,
        "inference_vulnerable": False,
        "inference_dependencies": [],
        "inference_vulnerabilities": [],
        "training_vulnerable": False,
        "training_dependencies": [],
        "training_vulnerabilities": [],
        "deprecated": False,
        "hyperparameters": [],
        "training_ecr_specs": ecr,
        "training_artifact_key": TRAINED,
        "training_script_key": "scripts/train.tar.gz",
        "default_training_instance_type": "ml.g5.xlarge",
        "supported_training_instance_types": ["ml.g5.xlarge"],
        "default_inference_instance_type": "ml.g5.xlarge",
        "supported_inference_instance_types": ["ml.g5.xlarge"],
        **changes,
    }


def tiny() -> dict[str, bytes]:
    """The files of the shipped base, by their path."""
    return {
        path.relative_to(TINY_FOLDER).as_posix(): path.read_bytes()
        for path in sorted(TINY_FOLDER.rglob("*"))
        if path.is_file()
    }


def packed(files: Mapping[str, bytes], link: str = "") -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        if link:
            member = tarfile.TarInfo("link")
            member.type, member.linkname = tarfile.SYMTYPE, link
            tar.addfile(member)
    return gzip.compress(sink.getvalue(), 1)


@pytest.fixture
def jumpstart(deployment: Deployment) -> Iterator[str]:
    """The region's bucket: versions of a model, with the shipped base as its weights."""
    s3, region = deployment.s3, deployment.s3.meta.region_name
    bucket = content_bucket(region)
    s3.create_bucket(
        Bucket=bucket,
        CreateBucketConfiguration={"LocationConstraint": region},  # type: ignore[typeddict-item]
    )
    specs = {
        "1.9.0": spec("1.9.0"),
        "1.10.0": spec("1.10.0"),
        "1.2.0": spec("1.2.0", training_supported=False, hosting_eula_key="eula/tiny.txt"),
        "1.1.0": spec(
            "1.1.0",
            training_supported=False,
            hosting_prepacked_artifact_key=None,
            hosting_use_script_uri=True,
        ),
        "1.0.0": spec("1.0.0", deprecated=True),
    }
    headers = []
    for version, document_ in specs.items():
        key = f"community_models_specs/{MODEL}/specs_v{version}.json"
        put(deployment, bucket, key, json.dumps(document_).encode())
        headers.append(
            {"model_id": MODEL, "version": version, "min_version": "2.0.0", "spec_key": key}
        )
    put(deployment, bucket, "models_manifest.json", json.dumps(headers).encode())
    files = tiny()
    for key in (TRAINED, SCRIPTED):
        put(deployment, bucket, key, packed({f"./base/{name}": files[name] for name in files}))
    for name, content in files.items():
        put(deployment, bucket, f"{SERVED}{name}", content)
    yield bucket
    for key in list(objects.keys_under(s3, bucket, "")):
        s3.delete_object(Bucket=bucket, Key=key)
    s3.delete_bucket(Bucket=bucket)


def put(deployment: Deployment, bucket: str, key: str, content: bytes) -> None:
    objects.write_bytes(deployment.s3, bucket, key, content)


def copied(deployment: Deployment, uri: str, folder: Path) -> Path:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    for key in objects.keys_under(deployment.s3, bucket, f"{prefix}/"):
        path = folder / key.removeprefix(f"{prefix}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(objects.read_bytes(deployment.s3, bucket, key, 100_000_000))
    return folder


def uri_of_library(deployment: Deployment, version: str, scope: str) -> str:
    """Where the ``sagemaker`` library says that the artifact lies."""
    from sagemaker.core.helper.session_helper import Session
    from sagemaker.core.jumpstart.artifacts.model_uris import _retrieve_model_uri

    session = Session(
        boto_session=deployment.session,
        sagemaker_client=deployment.sagemaker,
        default_bucket=deployment.data_bucket,
    )
    region = deployment.s3.meta.region_name
    return str(
        _retrieve_model_uri(
            MODEL, version, model_scope=scope, region=region, sagemaker_session=session
        )
    )


def test_the_newest_version_becomes_a_base_that_is_loaded(
    call: Call, deployment: Deployment, jumpstart: str, tmp_path: Path
) -> None:
    told = document(call("base", MODEL, "--json"))
    assert (told["version"], told["copied"]) == ("1.10.0", True)
    assert told["artifact"] == f"s3://{jumpstart}/{TRAINED}"
    assert told["base"] == f"s3://{deployment.data_bucket}/bases/{MODEL}/1.10.0"
    folder = copied(deployment, told["base"], tmp_path)
    assert load_base(str(folder)).digest == digest_of_weights(TINY_FOLDER)
    assert document(call("base", MODEL, "--json"))["copied"] is False
    shown = call("base", MODEL).stdout
    assert f"already at {told['base']}" in shown
    assert f"training: {{hyperparameters: {{base: {told['base']}}}}}" in shown
    assert f"serving: {{environment: {{TENANTRY_BASE: {told['base']}}}}}" in shown


def test_the_library_finds_the_same_artifacts(
    call: Call, deployment: Deployment, jumpstart: str
) -> None:
    keys = {}
    for version, scope in (("1.9.0", "training"), ("1.2.0", "inference"), ("1.1.0", "inference")):
        told = document(call("base", MODEL, "--version", version, "--accept-eula", "--json"))
        assert told["artifact"] == uri_of_library(deployment, version, scope)
        keys[version] = told["artifact"].removeprefix(f"s3://{jumpstart}/")
    assert keys == {"1.9.0": TRAINED, "1.2.0": SERVED, "1.1.0": SCRIPTED}


def test_a_licence_must_be_accepted_and_a_prefix_is_copied_too(
    call: Call, deployment: Deployment, jumpstart: str, tmp_path: Path
) -> None:
    refused = call("base", MODEL, "--version", "1.2.0", status=1).stderr
    assert f"read s3://{jumpstart}/eula/tiny.txt" in refused
    assert "--accept-eula" in refused
    put(deployment, jumpstart, f"{SERVED}unet/diffusion_pytorch_model.bin", b"pickled")
    told = document(call("base", MODEL, "--version", "1.2.0", "--accept-eula", "--json"))
    folder = copied(deployment, told["base"], tmp_path)
    assert digest_of_weights(folder) == digest_of_weights(TINY_FOLDER)
    assert list(folder.rglob("*.bin")) == []


@pytest.mark.parametrize("version", ["1.10.0", "1.2.0"])  # an archive, a prefix
def test_a_copy_that_was_killed_is_made_anew(
    call: Call, deployment: Deployment, jumpstart: str, version: str
) -> None:
    artifact, told = jumpstart_models.find(deployment, MODEL, version), list[str]()

    def killed(name: str, _: int) -> None:
        told.append(name)
        if len(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jumpstart_models.copy(deployment, artifact, killed)
    prefix = f"bases/{MODEL}/{version}/"
    there = list(objects.keys_under(deployment.s3, deployment.data_bucket, prefix))
    assert len(there) == 3
    put(deployment, deployment.data_bucket, there[0], b"half")
    arguments = ("base", MODEL, "--version", version, "--accept-eula", "--json")
    assert document(call(*arguments))["copied"] is True
    assert {
        key.removeprefix(prefix): objects.read_bytes(
            deployment.s3, deployment.data_bucket, key, 100_000_000
        )
        for key in objects.keys_under(deployment.s3, deployment.data_bucket, prefix)
    } == {name: content for name, content in tiny().items() if name.endswith(TAKEN)}


DRAWS = json.dumps({"_class_name": KINDS[0]}).encode()
INPAINT = json.dumps({"_class_name": "StableDiffusionInpaintPipeline"}).encode()
HOLLOW = (
    (packed({"model_index.json": INPAINT, "unet/x.safetensors": b"x"}), "holds a StableDiffusionI"),
    (packed({"model_index.json": b"x", "unet/x.safetensors": b"x"}), "is not JSON"),
    (packed({"weights.safetensors": b"x"}), "holds 0 files model_index.json"),
    (packed({"a/model_index.json": b"{}", "b/model_index.json": b"{}"}), "holds 2 files"),
    (packed({"model_index.json": b"{}", "unet/model.bin": b"x"}), "no .safetensors weights"),
    (packed({"model_index.json": b"{}", "../x.safetensors": b"x"}), "no plain file inside"),
    (packed({"model_index.json": b"{}"}, link="/etc/passwd"), "no plain file inside"),
    (packed({"model_index.json": DRAWS, "a b/x.safetensors": b""}), "name no key can have"),
    (packed(tiny())[:1000], "not a whole gzipped tar archive"),
    (b"no archive", "not a whole gzipped tar archive"),
)


def test_an_artifact_that_holds_no_pipeline_is_refused_with_the_reason(
    call: Call, deployment: Deployment, jumpstart: str
) -> None:
    for content, said in HOLLOW:
        put(deployment, jumpstart, TRAINED, content)
        assert said in call("base", MODEL, status=1).stderr
    index = f"bases/{MODEL}/1.10.0/model_index.json"
    assert list(objects.keys_under(deployment.s3, deployment.data_bucket, index)) == []


def test_what_jumpstart_does_not_have_is_told(
    call: Call, deployment: Deployment, jumpstart: str
) -> None:
    told = call("base", "model-txt2img-tny", status=1).stderr
    assert f"JumpStart has no model 'model-txt2img-tny' in {deployment.s3.meta.region_name}" in told
    assert f"near it are {MODEL}" in told
    told = call("base", MODEL, "--version", "3.0.0", status=1).stderr
    assert "there are 1.0.0, 1.1.0, 1.2.0, 1.9.0, 1.10.0" in told
    told = call("base", MODEL, "--version", "1.0.0", status=1).stderr
    assert "1.0.0 is deprecated in JumpStart" in told
    assert "is not the id of a JumpStart model" in call("base", "../x", status=1).stderr
    deployment.s3.delete_object(Bucket=jumpstart, Key=TRAINED)
    gone = call("base", MODEL, status=1).stderr
    assert f"s3://{jumpstart}/{TRAINED} is not there, though JumpStart lists it" in gone
    put(deployment, jumpstart, "models_manifest.json", b"{}")
    assert "must be a list of models" in call("base", MODEL, status=1).stderr


def test_what_aws_refuses_is_told_with_the_policy_that_allows_it(
    call: Call, deployment: Deployment, jumpstart: str
) -> None:
    for operation, what in (("GetObject", ":"), ("HeadObject", f"/{TRAINED}:")):
        break_calls(deployment.s3, operation, 1, "AccessDenied", 403)
        told = call("base", MODEL, status=1).stderr
        assert f"AWS refuses s3://{jumpstart}{what}" in told
        assert "OperatorJobsPolicy" in told


def test_kinds_and_buckets_are_those_of_the_container_and_of_the_library() -> None:
    from sagemaker.core.jumpstart.constants import JUMPSTART_LAUNCHED_REGIONS

    assert jumpstart_models.KINDS == KINDS
    for info in JUMPSTART_LAUNCHED_REGIONS:
        assert content_bucket(info.region_name) == info.content_bucket
        assert content_bucket(info.region_name, gated=True) == info.gated_content_bucket


def test_a_region_without_jumpstart_is_told(deployment: Deployment) -> None:
    told = caller(deployment)("base", MODEL, status=1).stderr
    assert "the region has no JumpStart" in told or "the region may have no JumpStart" in told
