"""The embedded default base: a small Stable Diffusion pipeline of icons, the script that made it,
and the reader of its images."""

from pathlib import Path
from typing import Final

MODEL_FOLDER: Final = Path(__file__).parent / "model"
"""The pipeline as shipped, for `StableDiffusionPipeline.from_pretrained`, with the reader of its
images and a card."""
