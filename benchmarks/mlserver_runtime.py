"""The forecast family as a custom runtime of MLServer: the same predictor object, behind the V2
inference protocol.

MLServer loads it in a separate environment, which neither has nor needs this project's
dependencies.
"""

from pathlib import Path

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from containers.forecast.serving.predictor import ForecastPredictor

_PREDICTOR = ForecastPredictor()


# MLServer is in another environment, so its types are unknown here.
class ForecastRuntime(MLModel):  # type: ignore[misc]
    """One tenant's forecasts; a request and an answer are one string each."""

    async def load(self) -> bool:
        """Read the model's files."""
        self._model = _PREDICTOR.load(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer the JSON text in the first input with the JSON text of the forecast."""
        body = payload.inputs[0].data.root[0]
        answer = _PREDICTOR.predict(
            self._model,
            body if isinstance(body, bytes) else body.encode(),
            "application/json",
            "application/json",
        )
        output = ResponseOutput(
            name="answer", shape=[1], datatype="BYTES", data=[answer.body.decode()]
        )
        return InferenceResponse(model_name=self.name, outputs=[output])
