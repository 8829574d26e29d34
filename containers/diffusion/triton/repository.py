"""Write Triton's model repository: `python -m containers.diffusion.triton.repository OUT`.

The repository holds one model for all tenants. It is small because it runs code from the image
(containers/diffusion/triton/Dockerfile), which must be importable where Triton runs.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

MODEL: Final = "portraits"
RECORD: Final = "record"
ANSWER: Final = "answer"
CONTENT_TYPE: Final = "content_type"

# https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md
CONFIGURATION: Final = f"""\
name: "{MODEL}"
backend: "python"
# No batches of Triton's: the engine batches, a denoising step at a time.
max_batch_size: 0
input [
  {{ name: "{RECORD}" data_type: TYPE_STRING dims: [ 1 ] }}
]
output [
  {{ name: "{ANSWER}" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "{CONTENT_TYPE}" data_type: TYPE_STRING dims: [ 1 ] }}
]
# One process, and so one base, on each GPU; on the CPU where there is none.
instance_group [
  {{ kind: KIND_AUTO count: 1 }}
]
"""

CODE: Final = '''\
"""Triton's way into the package."""

from containers.diffusion.triton.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def write_repository(folder: Path) -> Path:
    """Create ``folder`` and write the repository into it; returns the model's folder."""
    model = folder / MODEL
    (model / "1").mkdir(parents=True, exist_ok=True)
    (model / "config.pbtxt").write_text(CONFIGURATION)
    (model / "1" / "model.py").write_text(CODE)
    return model


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the repository where the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m containers.diffusion.triton.repository", description=__doc__
    )
    parser.add_argument("out", type=Path, help="the repository's folder")
    write_repository(parser.parse_args(arguments).out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
