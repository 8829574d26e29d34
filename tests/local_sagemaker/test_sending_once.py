"""A container that closes the connection without an answer gets the request only once, with any
number of kept connections."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from infrastructure.local_cloud import LocalCloud
from local_sagemaker.http.client import HttpClient
from tests.local_sagemaker.conftest import (
    Emulator,
    create_endpoint_config,
    create_model,
    keys,
    unique,
    wait_for,
)
from tests.local_sagemaker.test_hosting import Endpoint
from tests.local_sagemaker.test_transform import ended, put, transform

KEPT = 6


class Closing(BaseHTTPRequestHandler):
    """Promises in its headers to keep the connection after an answer, but closes it a moment
    later."""

    protocol_version = "HTTP/1.1"
    closed = threading.Event()

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
        self.close_connection = True

    def finish(self) -> None:
        super().finish()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.closed.set()


def test_a_kept_connection_that_the_container_has_closed_is_not_used() -> None:
    """This holds also where the event loop was too busy to notice the close, because the client
    never sends a request again."""

    async def ask_twice(port: int) -> list[int]:
        client = HttpClient(port)
        statuses = []
        for _ in range(3):
            Closing.closed.clear()
            statuses.append(
                (await client.request("POST", "/invocations", body=b"x", within=10)).status
            )
            assert Closing.closed.wait(10)  # this blocks the event loop
        client.close()
        return statuses

    server = ThreadingHTTPServer(("127.0.0.1", 0), Closing)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        assert asyncio.run(ask_twice(server.server_port)) == [200, 200, 200]
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


def invoke(runtime: Any, endpoint: str, body: str) -> Any:
    return json.loads(
        runtime.invoke_endpoint(EndpointName=endpoint, Body=body.encode())["Body"].read()
    )


def keep_connections(runtime: Any, endpoint: str) -> None:
    """Send simultaneous requests, each on its own connection; the connections are kept
    afterwards."""
    with ThreadPoolExecutor(KEPT) as pool:
        for answer in [pool.submit(invoke, runtime, endpoint, "sleep 0.5") for _ in range(KEPT)]:
            answer.result()


def test_an_invocation_is_sent_once(sagemaker: Any, runtime: Any, endpoint: Endpoint) -> None:
    name = endpoint(create_endpoint_config(sagemaker, create_model(sagemaker)))
    keep_connections(runtime, name)
    with pytest.raises(ClientError, match="closed the connection") as error:
        invoke(runtime, name, "close")
    assert error.value.response["Error"]["Code"] == "ModelError"
    assert invoke(runtime, name, "closed") == 1


def test_an_asynchronous_request_is_sent_once(emulator: Emulator, s3: Any, bucket: str) -> None:
    client, runtime = emulator.client("sagemaker"), emulator.client("sagemaker-runtime")
    output = {"S3OutputPath": f"s3://{bucket}/out", "S3FailurePath": f"s3://{bucket}/failed"}
    config = create_endpoint_config(
        client, create_model(client), asynchronous={"OutputConfig": output}
    )
    name = unique("async")
    client.create_endpoint(EndpointName=name, EndpointConfigName=config)

    def send(body: str) -> Any:
        return runtime.invoke_endpoint_async(EndpointName=name, Body=body.encode())

    wait_for(
        lambda: client.describe_endpoint(EndpointName=name)["EndpointStatus"],
        lambda status: status == "InService",
    )
    for _ in range(4):
        send("sleep 0.5")
    wait_for(lambda: keys(s3, bucket, "out/"), lambda found: len(found) == 4)
    send("close")
    wait_for(lambda: keys(s3, bucket, "failed/"), bool)
    key = send("closed")["OutputLocation"].removeprefix(f"s3://{bucket}/")
    wait_for(lambda: keys(s3, bucket, "out/"), lambda found: key in found)
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == b"1"
    client.delete_endpoint(EndpointName=name)


@pytest.mark.parametrize("retries", [0, 2])
def test_a_transform_job_tries_again_as_often_as_it_was_told(
    sagemaker: Any, s3: Any, bucket: str, local_cloud: LocalCloud, retries: int
) -> None:
    put(s3, bucket, **{"lines.txt": "\n".join([*["sleep 0.5"] * 4, "close it"])})
    name = transform(
        sagemaker,
        bucket,
        {},
        input_={"SplitType": "Line"},
        BatchStrategy="SingleRecord",
        MaxConcurrentTransforms=4,
        ModelClientConfig={"InvocationsMaxRetries": retries},
    )
    assert ended(sagemaker, name)["TransformJobStatus"] == "Failed"
    logs: Any = boto3.client(
        "logs", endpoint_url=local_cloud.ministack_url, region_name="eu-west-1"
    )
    group = "/aws/sagemaker/TransformJobs"
    (stream,) = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{name}/")[
        "logStreams"
    ]
    events = logs.get_log_events(
        logGroupName=group, logStreamName=stream["logStreamName"], startFromHead=True
    )
    tries = [
        event for event in events["events"] if event["message"].startswith("closed a connection")
    ]
    assert len(tries) == retries + 1
