"""A CloudFormation template as it is sent: JSON without comments and blanks.

CloudFormation takes a ``TemplateBody`` of at most 51,200 bytes
(https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html), and
``stack.yaml`` has more, for its readers. ``python -m infrastructure.template_body`` prints it for
other tools.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import yaml

TEMPLATE: Final = Path(__file__).with_name("stack.yaml")
MAX_BYTES: Final = 51_200
_WITHOUT_FN: Final = {"Ref", "Condition"}


class _Loader(yaml.SafeLoader):
    """Reads the short forms of CloudFormation's functions too, as ``!Sub``."""


def _function(loader: _Loader, name: str, node: yaml.Node) -> Any:
    """The full form of a function
    (https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/intrinsic-function-reference.html)."""
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)  # type: ignore[arg-type]
    if name == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {name if name in _WITHOUT_FN else f"Fn::{name}": value}


_Loader.add_multi_constructor("!", _function)


def template_body(template: Path = TEMPLATE) -> str:
    """The template as JSON. Raises ``yaml.YAMLError`` when the file is not YAML."""
    with template.open(encoding="utf-8") as content:
        document = yaml.load(content, _Loader)  # noqa: S506 - a SafeLoader
    return json.dumps(document, separators=(",", ":"))


if __name__ == "__main__":
    sys.stdout.write(template_body() + "\n")
