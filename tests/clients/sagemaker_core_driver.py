"""Acts as a user of sagemaker-core: each line of input is an operation and its request as JSON,
each line of output its result.

One process for all operations saves the package's import of some seconds for each.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError, ParamValidationError
from sagemaker.core.resources import Endpoint, EndpointConfig, Model
from sagemaker.core.utils.code_injection.codec import pascal_to_snake
from sagemaker.core.utils.utils import serialize

Request = dict[str, Any]


def arguments(request: Any) -> Any:
    """A request's members under the package's names. A container's variables keep theirs."""
    if isinstance(request, list):
        return [arguments(entry) for entry in request]
    if isinstance(request, dict):
        return {
            pascal_to_snake(name): value if name == "Environment" else arguments(value)
            for name, value in request.items()
        }
    return request


def describe_endpoint(request: Request) -> Any:
    """What the resource class read from the description."""
    found = Endpoint.get(**arguments(request))
    return {
        name: serialize(getattr(found, pascal_to_snake(name)))
        for name in (
            "EndpointStatus",
            "EndpointConfigName",
            "FailureReason",
            "LastDeploymentConfig",
            "ProductionVariants",
            "ShadowProductionVariants",
        )
    }


def invoke_endpoint(request: Request) -> Any:
    """The answer's body as text, and the variant that gave it."""
    name, body = request.pop("EndpointName"), request.pop("Body").encode()
    answer = Endpoint(endpoint_name=name).invoke(body=body, **arguments(request))
    return {
        "Body": answer.body.read().decode(),
        "InvokedProductionVariant": answer.invoked_production_variant,
    }


def update_endpoint(request: Request) -> Any:
    """`update` takes the name of the configuration from the resource."""
    endpoint = Endpoint.get(request.pop("EndpointName"))
    endpoint.endpoint_config_name = request.pop("EndpointConfigName")
    endpoint.update(**arguments(request))


def update_endpoint_weights_and_capacities(request: Request) -> Any:
    """Change weights or numbers of instances."""
    endpoint = Endpoint(endpoint_name=request.pop("EndpointName"))
    endpoint.update_weights_and_capacities(**arguments(request))


OPERATIONS: dict[str, Callable[[Request], Any]] = {
    "create_model": lambda request: Model.create(**arguments(request)) and None,
    "create_endpoint_config": lambda request: EndpointConfig.create(**arguments(request)) and None,
    "create_endpoint": lambda request: Endpoint.create(**arguments(request)) and None,
    "describe_endpoint": describe_endpoint,
    "invoke_endpoint": invoke_endpoint,
    "update_endpoint": update_endpoint,
    "update_endpoint_weights_and_capacities": update_endpoint_weights_and_capacities,
    "delete_endpoint": lambda request: Endpoint(**arguments(request)).delete(),
    "delete_endpoint_config": lambda request: EndpointConfig(**arguments(request)).delete(),
    "delete_model": lambda request: Model(**arguments(request)).delete(),
}


def main() -> None:
    """Answer every line with `{"result": …}`, or with `{"refused": [code, message]}`."""
    output, sys.stdout = sys.stdout, sys.stderr  # the package writes a welcome and its progress
    for line in sys.stdin:
        operation, request = json.loads(line)
        try:
            answer: Any = {"result": OPERATIONS[operation](request)}
        except ClientError as error:
            answer = {"refused": [error.response["Error"][name] for name in ("Code", "Message")]}
        except ParamValidationError as error:
            answer = {"refused": ["ParamValidationError", str(error)]}
        output.write(json.dumps(answer, default=str) + "\n")
        output.flush()


if __name__ == "__main__":
    main()
