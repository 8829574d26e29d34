"""Stands in for Triton around a Python model: `triton_python_backend_utils` as documented, and the
server's part.

https://github.com/triton-inference-server/python_backend (README, "Default Mode", "Error Handling",
"Request Cancellation Handling"). It raises an error for behaviour that the documentation forbids: a
tensor read after `execute` returned, a second response, outputs that the model's configuration does
not name.
"""

import importlib.util
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from google.protobuf import json_format, text_format
from tritonclient.grpc import InferInput, model_config_pb2
from tritonclient.utils import deserialize_bytes_tensor, np_to_triton_dtype, serialize_byte_tensor

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1


class TritonModelException(Exception):  # noqa: N818 - Triton's name
    pass


class TritonError:
    (
        UNKNOWN,
        INTERNAL,
        NOT_FOUND,
        INVALID_ARG,
        UNAVAILABLE,
        UNSUPPORTED,
        ALREADY_EXISTS,
        CANCELLED,
    ) = range(8)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


class Tensor:
    def __init__(self, name: str, numpy_array: npt.NDArray[Any]) -> None:
        self._name, self._array = name, numpy_array
        self.gone = False

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> npt.NDArray[Any]:
        assert not self.gone, "the tensors of a request are gone when execute has returned"
        return self._array


class InferenceResponse:
    def __init__(self, output_tensors: list[Tensor], error: TritonError | None = None) -> None:
        self._outputs, self._error = output_tensors, error

    def output_tensors(self) -> list[Tensor]:
        return self._outputs

    def error(self) -> TritonError | None:
        return self._error


class InferenceResponseSender:
    def __init__(self) -> None:
        self.cancelled = False
        self.done = threading.Event()
        self.response: InferenceResponse | None = None

    def is_cancelled(self) -> bool:
        return self.cancelled

    def send(self, response: InferenceResponse, flags: int = 0) -> None:
        assert not self.done.is_set(), "a model in default mode sends one response"
        assert flags == TRITONSERVER_RESPONSE_COMPLETE_FINAL
        self.response = response
        self.done.set()


class InferenceRequest:
    def __init__(self, inputs: list[Tensor]) -> None:
        self._inputs = inputs
        self.sender = InferenceResponseSender()

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def get_response_sender(self) -> InferenceResponseSender:
        return self.sender


def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Tensor | None:
    return next((tensor for tensor in inference_request.inputs() if tensor.name() == name), None)


class Answered:
    """A client's answer: outputs by name, or an error's code and message."""

    def __init__(self, response: InferenceResponse) -> None:
        error = response.error()
        self.error = None if error is None else (error.code(), error.message())
        self.outputs = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}

    @property
    def document(self) -> Any:
        assert self.error is None, self.error
        assert self.outputs["content_type"].item() == b"application/json"
        return json.loads(self.outputs["answer"].item())


class Triton:
    """A loaded model, called like Triton calls one."""

    _TYPES: ClassVar = {"TYPE_STRING": "BYTES"}

    def __init__(self, folder: Path, kind: str = "CPU") -> None:
        """Load the model in `folder` of a repository."""
        config = text_format.Parse(
            (folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
        )
        assert config.name == folder.name
        self._outputs = {output.name: output for output in config.output}
        self._inputs = {entry.name: entry for entry in config.input}
        spec = importlib.util.spec_from_file_location("model", folder / "1" / "model.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.model = module.TritonPythonModel()
        self.model.initialize(
            {
                "model_config": json_format.MessageToJson(config),
                "model_instance_kind": kind,
                "model_instance_device_id": "0",
                "model_repository": str(folder),
                "model_version": "1",
                "model_name": config.name,
            }
        )

    def send(self, *records: bytes) -> list[InferenceResponseSender]:
        """Pass requests to the model in one call of `execute`; their answers come later."""
        requests = [InferenceRequest([self._received(record)]) for record in records]
        assert self.model.execute(requests) is None
        for request in requests:
            for tensor in request.inputs():
                tensor.gone = True
        return [request.sender for request in requests]

    def answers(self, senders: list[InferenceResponseSender]) -> list[Answered]:
        answers = []
        for sender in senders:
            assert sender.done.wait(60)
            assert sender.response is not None
            answers.append(Answered(sender.response))
        for answer in answers:
            for name, array in answer.outputs.items():
                assert list(array.shape) == list(self._outputs[name].dims)
                assert np_to_triton_dtype(array.dtype) == "BYTES"
        return answers

    def ask(self, *records: bytes) -> list[Answered]:
        return self.answers(self.send(*records))

    def _received(self, record: bytes) -> Tensor:
        """A record after its passage through Triton's own client and wire format."""
        array = np.array([record], dtype=np.object_)
        sent = InferInput("record", [1], "BYTES")
        sent.set_data_from_numpy(array)
        wanted = self._inputs[sent.name()]
        assert list(wanted.dims) == sent.shape()
        assert self._TYPES[model_config_pb2.DataType.Name(wanted.data_type)] == sent.datatype()
        return Tensor(sent.name(), deserialize_bytes_tensor(serialize_byte_tensor(array).item()))


@contextmanager
def utilities() -> Iterator[None]:
    """Let `import triton_python_backend_utils` find this module."""
    name = "triton_python_backend_utils"
    stand_in = ModuleType(name)
    stand_in.__dict__.update(globals())
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        del sys.modules[name]
