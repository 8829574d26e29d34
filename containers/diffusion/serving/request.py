"""A request for pictures, parsed once into drawings."""

import json
import math
import re
import secrets
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NoReturn, cast

from containers.runtime.serving.predictor import InvalidRequestError

MAX_BODY_BYTES: Final = 256 * 1024
MAX_PROMPT_CHARACTERS: Final = 1000
MAX_PROMPTS: Final = 64
MAX_COUNT: Final = 8
MAX_PICTURES: Final = 64
MAX_GUIDANCE: Final = 30.0
# JSON numbers are exact up to here in every language (RFC 8259, section 6).
MAX_SEED: Final = 2**53 - 1
PNG: Final = "image/png"

_FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")

FIELDS: Final = (
    "prompt",
    "prompts",
    "negative_prompt",
    "seed",
    "steps",
    "guidance",
    "width",
    "height",
    "count",
    "format",
    "timeout_seconds",
)


class RefusedPictureRequestError(InvalidRequestError):
    """A request that cannot be drawn; ``code`` names the kind of refusal for programs. Its sentence
    repeats no prompt."""

    def __init__(self, message: str, field: str | None, code: str) -> None:
        super().__init__(message, field, code)
        self.code = code


Format = Literal["png", "json"]
_FORMATS: Final[dict[str, Format]] = {
    "": "json",
    "*/*": "json",
    "application/*": "json",
    "application/json": "json",
    PNG: "png",
    "image/*": "png",
}


@dataclass(frozen=True)
class Terms:
    """The defaults and limits of a server's requests."""

    steps: int
    max_steps: int
    guidance: float
    size: int
    """Default pixels a side."""
    max_size: int
    """Most pixels a side."""
    size_multiple: int
    timeout_seconds: float
    max_timeout_seconds: float


@dataclass(frozen=True)
class Drawing:
    """One picture to be drawn; the same drawing by the same model is the same picture."""

    prompt: str
    negative_prompt: str | None
    seed: int
    steps: int
    guidance: float
    width: int
    height: int

    @property
    def guided(self) -> bool:
        """Whether guidance leads the picture away from the negative prompt; a guidance of 1 or less
        has no effect."""
        return self.guidance > 1

    @property
    def cost(self) -> float:
        """The picture's cost, in UNet samples times pixels: the unit of a fair share."""
        return float(self.steps * self.width * self.height * (2 if self.guided else 1))


@dataclass(frozen=True)
class PictureRequest:
    """A whole request: its drawings in the order of the answer, the answer's format, and the time
    limit."""

    drawings: tuple[Drawing, ...]
    format: Format
    timeout_seconds: float

    @classmethod
    def parse(
        cls, body: bytes, accept: str, own_prompts: tuple[str, ...], terms: Terms
    ) -> "PictureRequest":
        """Read a request's JSON; ``own_prompts`` are drawn for ``"prompts": "own"``.

        Pictures of one prompt have the seeds ``seed``, ``seed + 1``, …, and each prompt begins
        again with ``seed``, so that prompts can be compared. Raises `RefusedPictureRequestError`
        that names the field.
        """
        fields = _object(body)
        prompts = _prompts(fields, own_prompts)
        count = _whole(fields, "count", 1, 1, MAX_COUNT)
        if len(prompts) * count > MAX_PICTURES:
            _refuse(
                "count",
                f"{len(prompts)} prompts of {count} pictures each are more than {MAX_PICTURES} "
                f"pictures",
                "too_many_pictures",
            )
        seed = _whole(fields, "seed", secrets.randbelow(2**32), 0, MAX_SEED - MAX_COUNT)
        first = Drawing(
            prompt=prompts[0],
            negative_prompt=_negative(fields.get("negative_prompt")),
            seed=seed,
            steps=_whole(fields, "steps", terms.steps, 1, terms.max_steps),
            guidance=_number(fields, "guidance", terms.guidance, 0.0, MAX_GUIDANCE),
            width=_side(fields, "width", terms),
            height=_side(fields, "height", terms),
        )
        timeout = _number(
            fields, "timeout_seconds", terms.timeout_seconds, 0.001, terms.max_timeout_seconds
        )
        drawings = tuple(
            replace(first, prompt=prompt, seed=seed + number)
            for prompt in prompts
            for number in range(count)
        )
        return cls(drawings, _format(fields, accept, len(drawings)), timeout)


def _object(body: bytes) -> dict[str, Any]:
    if len(body) > MAX_BODY_BYTES:
        raise RefusedPictureRequestError(
            f"the body is larger than {MAX_BODY_BYTES} bytes", None, "body_too_large"
        )
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedPictureRequestError("the body is not JSON", None, "body_not_json") from error
    if not isinstance(document, dict):
        raise RefusedPictureRequestError(
            'the body must be a JSON object such as {"prompt": "a red circle on blue"}',
            None,
            "body_no_object",
        )
    for name in document:
        if name not in FIELDS:
            _refuse_field(name)
    return document


def _prompts(fields: dict[str, Any], own: tuple[str, ...]) -> tuple[str, ...]:
    if ("prompt" in fields) == ("prompts" in fields):
        _refuse(
            "prompt",
            'give either "prompt", a text, or "prompts", a list of texts or "own"',
            "prompt_missing_or_twice",
        )
    if "prompt" in fields:
        return (_text(fields["prompt"], "prompt"),)
    prompts = fields["prompts"]
    if prompts == "own":
        return own
    if not isinstance(prompts, list) or not 1 <= len(prompts) <= MAX_PROMPTS:
        _refuse(
            "prompts",
            f'prompts must be a list of 1 to {MAX_PROMPTS} texts, or "own" for the model\'s own',
            "prompts_no_list",
        )
    return tuple(_text(prompt, "prompts") for prompt in prompts)


def _negative(value: Any) -> str | None:
    """A negative prompt; a blank one names nothing."""
    return (
        None
        if value is None or (isinstance(value, str) and not value.strip())
        else _text(value, "negative_prompt")
    )


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_PROMPT_CHARACTERS:
        _refuse(
            field,
            f"{field} must be a text of 1 to {MAX_PROMPT_CHARACTERS} characters that are not all "
            f"blank",
            f"{field}_no_text",
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        # JSON can contain half a surrogate pair, which is not a character.
        _refuse(field, f"{field} must be text that can be written as UTF-8", f"{field}_not_utf8")
    return value


def _whole(fields: dict[str, Any], field: str, default: int, least: int, most: int) -> int:
    value = fields.get(field)
    if value is None:
        return default
    if type(value) is not int or not least <= value <= most:
        _refuse(
            field,
            f"{field} must be a whole number from {least} to {most}",
            f"{field}_out_of_bounds",
        )
    return value


def _number(fields: dict[str, Any], field: str, default: float, least: float, most: float) -> float:
    value = fields.get(field)
    if value is None:
        return default
    # A whole number may be too large for a float; NaN lies within no bounds.
    if type(value) not in (int, float) or not least <= value <= most or math.isnan(value):
        _refuse(
            field, f"{field} must be a number from {least:g} to {most:g}", f"{field}_out_of_bounds"
        )
    return float(value)


def _side(fields: dict[str, Any], field: str, terms: Terms) -> int:
    value = _whole(fields, field, terms.size, terms.size_multiple, terms.max_size)
    if value % terms.size_multiple:
        _refuse(
            field,
            f"{field} must be a multiple of {terms.size_multiple} pixels",
            f"{field}_no_multiple",
        )
    return value


def _format(fields: dict[str, Any], accept: str, pictures: int) -> Format:
    wanted = fields.get("format")
    if wanted is not None and wanted not in ("png", "json"):
        _refuse("format", 'format must be "png" or "json"', "format_unknown")
    kinds = [part.split(";")[0].strip().lower() for part in accept.split(",")]
    accepted: list[Format] = (
        [_FORMATS[kind] for kind in kinds if kind in _FORMATS]
        if wanted is None
        else [cast(Format, wanted)]
    )
    if not accepted:
        _refuse(
            "Accept",
            f"answers are application/json or {PNG}, not {accept[:60]!r}",
            "accept_unknown",
        )
    # Take the first format that the client names and that can hold the pictures.
    chosen = next((kind for kind in accepted if kind == "json" or pictures == 1), None)
    if chosen is None:
        field = "Accept" if wanted is None else "format"
        _refuse(field, f"{pictures} pictures do not fit in one PNG; ask for JSON", "png_of_several")
    return chosen


def _refuse_field(name: str) -> NoReturn:
    known = f"there are {', '.join(FIELDS)}"
    # Do not repeat an odd field name, because it may be a misplaced prompt.
    if not _FIELD.fullmatch(name):
        raise RefusedPictureRequestError(
            f"a field has no such name; {known}", None, "field_unknown"
        )
    raise RefusedPictureRequestError(f"there is no field {name!r}; {known}", name, "field_unknown")


def _refuse(field: str, message: str, code: str) -> NoReturn:
    raise RefusedPictureRequestError(message, field, code)
