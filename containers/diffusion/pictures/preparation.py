"""Checks a tenant's uploaded pictures and writes the pictures that training reads, the same for
every base.

A tenant uploads 5 to 20 pictures (PNG, JPEG or WebP, by their content) and perhaps one
`captions.json`, `{file: caption}`. A picture that cannot be used is left out and counted in
`Prepared.repairs`, as long as enough others remain:

- `empty`, `truncated`, `corrupt`, `animated`, `too_small` and `other_type` files, as
  `images.RefusedImageError` reports them; the report names another type by the file's content;
- pictures of one colour (`one_colour`), after transparency was laid on white;
- the same picture again, byte for byte or pixel for pixel (`duplicates`), or recompressed or
  resized (`near_duplicates`); the largest stays.

Changes to the remaining pictures are counted too: `rotated` (by its EXIF orientation), `flattened`
(transparency laid on white), `converted` (to RGB of 8 bits), `recoloured` (from its colour profile
to sRGB), `profile_ignored` (a colour profile that cannot be used), `reduced` (to `LONGEST_PREPARED`
pixels). All metadata is left behind.

The whole upload is refused for a program, an archive, a page or a file made to exhaust its reader.
It is also refused for unusable parameters or captions. A sentence names the fault and the cure; a
code names the kind.

A picture's caption is the first of these that exists:

- its entry in `captions.json`;
- the words in its file's name, without the number at the end and other characters than letters
  (`red-circle-3.png` and `red+circle (3).png` are "a red circle", `IMG_2041.jpg` has none);
- the parameter `subject` ("an icon").
"""

import hashlib
import io
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from containers.diffusion.pictures.images import (
    DecodedImage,
    HostileImageError,
    RefusedImageError,
    decode_image,
    read_file,
    read_image,
)
from containers.runtime.errors import ContainerError
from contracts.refused_data import RefusedDataError

__all__ = [
    "CAPTIONS_FILE",
    "FEWEST_IMAGES",
    "IMAGES_FILE",
    "MAX_IMAGES",
    "Prepared",
    "PreparedImage",
    "PreparedImages",
    "RefusedDataError",
    "RefusedTextError",
    "clean_text",
    "prepare",
    "read_prepared",
]

CAPTIONS_FILE: Final = "captions.json"
IMAGES_FILE: Final = "images.json"

FEWEST_IMAGES: Final = 5
MAX_IMAGES: Final = 20
"""How many pictures a model learns from."""

MAX_FILES: Final = 2 * MAX_IMAGES
"""Most pictures in an upload; half of them may be duplicates or unusable."""

MAX_TOLD: Final = 20
"""Most files that a refusal lists with their reasons."""

LONGEST_PREPARED: Final = 1024
"""Longer side of a prepared picture, in pixels; Stable Diffusion XL, the largest base, is trained
at this size."""

MAX_PROMPTS: Final = 16
MAX_CHARACTERS: Final = 200
"""Limit of a caption, a prompt or the subject; the 77 tokens of CLIP's text encoders hold about as
much."""

DEFAULT_SUBJECT: Final = "icon"

MAX_CAPTIONS_BYTES: Final = 64 << 10
MAX_IMAGES_FILE_BYTES: Final = 256 << 10

NEAR_DIFFERENCE: Final = 0.08
NEAR_LARGEST: Final = 0.15
"""Two pictures count as one picture recompressed or resized when both of these are small at 32 × 32
pixels: the root mean square of their difference, and its largest mean over 4 × 4 pixels. The limits
are shares of the smaller of the two pictures' contrasts (standard deviations).

- Flat icons that differ in a shape, its place or a colour differ by 0.2 and more; a turn of 8°
  makes 0.14.
- A picture of 256 pixels saved as JPEG or resized differs by 0.01. A small one of low contrast
  differs by up to 0.5, and stays.

Hashes of gradients distinguish flat icons less well, because most of their gradients are zero.
"""

_THUMBNAIL: Final = 32
_BLOCK: Final = 4
_FILE: Final = re.compile(r"image-\d\d\.png")
_NUMBER: Final = re.compile(r"\d+")
_BETWEEN_WORDS: Final = re.compile(r"[^\w]+|_+")
_WORD: Final = re.compile(r"[^\W\d_]{2,24}")
_VOWEL: Final = re.compile(r"[aeiouyäöüáéíóúàèìòùâêîôû]", re.IGNORECASE)
_NAMELESS: Final = frozenset(
    {
        "bild",
        "bildschirmfoto",
        "copy",
        "download",
        "file",
        "final",
        "foto",
        "image",
        "images",
        "img",
        "kopie",
        "pic",
    }
    | {"picture", "photo", "scan", "screenshot", "unbenannt", "unnamed", "untitled", "upload"}
)
"""Words in file names that programs give; they say nothing about the picture."""
_DETERMINERS: Final = frozenset({"a", "an", "the", "my", "our", "two", "three", "some"})


class RefusedTextError(ContainerError, ValueError):
    """A text that cannot be a caption or a prompt. The message gives the reason as the end of a
    sentence; ``code`` gives it for programs."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Prepared:
    """The result of `prepare`: how many pictures it wrote, what it repaired or left out, and
    figures for people.

    `fingerprint` is a SHA-256 of pixels, texts and uploaded names; it does not depend on the files'
    compression.
    """

    rows: int
    repairs: Mapping[str, int]
    facts: Mapping[str, Any]
    fingerprint: str


@dataclass(frozen=True)
class PreparedImage:
    """One picture to learn from; `source` is the name of the uploaded file."""

    path: Path
    caption: str
    source: str

    def read(self) -> Image.Image:
        """The picture, RGB. Raises `RefusedDataError`."""
        try:
            return read_image(self.path)
        except (RefusedImageError, OSError) as error:
            raise RefusedDataError(
                f"{self.path.name}: {error}",
                self.path.name,
                "Prepare the upload again.",
                "prepared_picture_unreadable",
            ) from error


@dataclass(frozen=True)
class PreparedImages:
    """The files that `prepare` wrote, read back."""

    subject: str
    prompts: tuple[str, ...]
    images: tuple[PreparedImage, ...]


@dataclass(frozen=True)
class _Candidate:
    """A usable picture during preparation. `png` is the file to write; `thumbnail` is [32, 32, 3]
    of 0 to 255."""

    source: str
    png: bytes
    content_hash: str
    pixel_hash: str
    thumbnail: NDArray[np.float32]
    decoded: DecodedImage

    @property
    def pixels(self) -> int:
        return self.decoded.width * self.decoded.height


def prepare(files: Sequence[Path], destination: Path, parameters: Mapping[str, Any]) -> Prepared:
    """Check one tenant's pictures and write them into the folder `destination`.

    `parameters` are:

    - `subject`: what the pictures show; "icon" when absent or empty;
    - `prompts`: what every night's pictures show, one prompt a line, at most `MAX_PROMPTS` of at
      most `MAX_CHARACTERS`; may be empty.

    It writes `image-00.png` and so on (RGB, the longer side at most `LONGEST_PREPARED` pixels), in
    the order of the uploaded names, and `images.json`: `{"format": 1, "subject", "prompts",
    "images": [{"file", "caption", "source"}]}`. Equal content gives equal bytes. It writes nothing
    when it refuses the upload. It decodes one picture at a time.

    Raises `RefusedDataError`.
    """
    subject = _text(
        parameters.get("subject") or DEFAULT_SUBJECT, "subject", "The subject", "subject"
    )
    prompts = _prompts(parameters.get("prompts"))
    pictures = sorted(
        (file for file in files if file.name != CAPTIONS_FILE), key=lambda file: file.name
    )
    if len(pictures) > MAX_FILES:
        raise RefusedDataError(
            f"There are {len(pictures)} pictures.",
            "files",
            f"Upload {FEWEST_IMAGES} to {MAX_IMAGES} of them.",
            "too_many_pictures",
        )
    captions = _captions(files, {file.name for file in pictures})

    repairs: Counter[str] = Counter()
    dropped: dict[str, str] = {}
    candidates = []
    for file in pictures:
        try:
            candidates.append(_candidate(file))
        except HostileImageError as error:
            raise RefusedDataError(
                f"{_shown(file.name)} {error.reason}.",
                file.name,
                error.cure,
                f"picture_{error.problem}",
            ) from error
        except RefusedImageError as error:
            repairs[error.problem] += 1
            dropped[file.name] = error.reason
    kept = _without_duplicates(candidates, repairs, dropped)
    _check_count(kept, len(pictures), dropped)

    for candidate in kept:
        repairs.update(candidate.decoded.changes)
    entries, origins = [], Counter[str]()
    for number, candidate in enumerate(kept):
        caption, origin = _caption(candidate.source, captions, subject)
        origins[origin] += 1
        entries.append(
            {
                "file": f"image-{number:02}.png",
                "caption": caption,
                "source": _shown(candidate.source),
            }
        )
    document = {"format": 1, "subject": subject, "prompts": prompts, "images": entries}
    described = (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
    destination.mkdir(parents=True, exist_ok=True)
    for entry, candidate in zip(entries, kept, strict=True):
        (destination / entry["file"]).write_bytes(candidate.png)
    (destination / IMAGES_FILE).write_bytes(described)
    digest = hashlib.sha256(described)
    for candidate in kept:
        digest.update(candidate.pixel_hash.encode())
    return Prepared(
        rows=len(kept),
        repairs=dict(repairs),
        facts={
            "subject": subject,
            "prompts": len(prompts),
            "uploaded_images": len(pictures),
            "formats": dict(Counter(str(candidate.decoded.format) for candidate in kept)),
            "smallest": _size(min(kept, key=lambda candidate: candidate.pixels)),
            "largest": _size(max(kept, key=lambda candidate: candidate.pixels)),
            "captions_from": dict(origins),
            "left_out": {_shown(name): reason for name, reason in dropped.items()},
        },
        fingerprint=digest.hexdigest(),
    )


def read_prepared(folder: Path) -> PreparedImages:
    """Read the files that `prepare` wrote into a folder, within the same limits;
    `PreparedImage.read` decodes the pictures.

    Raises `RefusedDataError`.
    """
    document = _json(
        folder / IMAGES_FILE, MAX_IMAGES_FILE_BYTES, "Prepare the upload again.", "prepared"
    )
    if not isinstance(document, dict) or set(document) != {
        "format",
        "subject",
        "prompts",
        "images",
    }:
        raise _changed(
            f"{IMAGES_FILE} has other fields than format, subject, prompts and images.", IMAGES_FILE
        )
    if document["format"] != 1:
        raise _changed(f"{IMAGES_FILE} is of another format than 1.", "format")
    prompts, entries = document["prompts"], document["images"]
    if not isinstance(prompts, list) or len(prompts) > MAX_PROMPTS:
        raise _changed(f"prompts is no list of at most {MAX_PROMPTS}.", "prompts")
    if not isinstance(entries, list) or not FEWEST_IMAGES <= len(entries) <= MAX_IMAGES:
        raise _changed(f"images is no list of {FEWEST_IMAGES} to {MAX_IMAGES}.", "images")
    images = []
    for number, entry in enumerate(entries):
        field = f"images[{number}]"
        if not isinstance(entry, dict) or set(entry) != {"file", "caption", "source"}:
            raise _changed(f"{field} has other fields than file, caption and source.", field)
        name = entry["file"]
        if not isinstance(name, str) or not _FILE.fullmatch(name):
            raise _changed(f"{field}.file is not a name like image-00.png.", f"{field}.file")
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise _changed(f"{name} is missing.", f"{field}.file")
        caption = _text(entry["caption"], f"{field}.caption", f"{field}.caption", "caption")
        source = entry["source"]
        if not isinstance(source, str) or len(source) > MAX_CHARACTERS:
            raise _changed(f"{field}.source is no name.", f"{field}.source")
        images.append(PreparedImage(path, caption, source))
    if len({image.path for image in images}) != len(images):
        raise _changed("images names one file twice.", "images")
    return PreparedImages(
        subject=_text(document["subject"], "subject", "The subject", "subject"),
        prompts=tuple(
            _text(prompt, f"prompts[{number}]", "A prompt", "prompt")
            for number, prompt in enumerate(prompts)
        ),
        images=tuple(images),
    )


def _changed(reason: str, field: str) -> RefusedDataError:
    return RefusedDataError(reason, field, "Prepare the upload again.", "prepared_changed")


def clean_text(text: object) -> str:
    """A caption or a prompt in its stored form: composed (NFC), one space between words, only
    printable characters.

    Raises `RefusedTextError` for a value that is not text, is empty, or is longer than
    `MAX_CHARACTERS`.
    """
    if not isinstance(text, str):
        raise RefusedTextError("is no text", "is_no_text")
    # Composing a long text takes long; it shortens a text to a third at most.
    if len(text) <= 4 * MAX_CHARACTERS:
        spaced = " ".join(unicodedata.normalize("NFC", text).split())
        printable = " ".join(
            "".join(character for character in spaced if character.isprintable()).split()
        )
        if not printable:
            raise RefusedTextError("is empty", "is_empty")
        if len(printable) <= MAX_CHARACTERS:
            return printable
    raise RefusedTextError(f"has more than {MAX_CHARACTERS} characters", "is_too_long")


def _text(text: object, field: str, what: str, code: str) -> str:
    try:
        return clean_text(text)
    except RefusedTextError as error:
        raise RefusedDataError(
            f"{what} {error}.",
            field,
            f"Write 1 to {MAX_CHARACTERS} characters that can be printed.",
            f"{code}_{error.code}",
        ) from error


def _prompts(given: object) -> list[str]:
    """The parameter `prompts`, without blank lines and repeated prompts."""
    if given is None:
        return []
    if not isinstance(given, str):
        raise RefusedDataError(
            "The prompts are no text.", "prompts", "Write one prompt to a line.", "prompts_no_text"
        )
    lines = [line for line in given.split("\n", 8 * MAX_PROMPTS) if line.strip()]
    prompts = list(
        dict.fromkeys(
            _text(line, "prompts", f"Prompt {number}", "prompt")
            for number, line in enumerate(lines, 1)
        )
    )
    if len(prompts) > MAX_PROMPTS:
        raise RefusedDataError(
            f"There are more than {MAX_PROMPTS} prompts.",
            "prompts",
            f"Give at most {MAX_PROMPTS}, one to a line.",
            "too_many_prompts",
        )
    return prompts


def _json(path: Path, max_bytes: int, cure: str, code: str) -> Any:
    try:
        size = path.stat().st_size
        document = json.loads(path.read_bytes()) if size <= max_bytes else None
    except OSError as error:
        raise RefusedDataError(
            f"{path.name} cannot be read ({error.strerror}).", path.name, cure, f"{code}_unreadable"
        ) from error
    except (ValueError, RecursionError) as error:
        raise RefusedDataError(
            f"{path.name} is not JSON.", path.name, cure, f"{code}_not_json"
        ) from error
    if size > max_bytes:
        raise RefusedDataError(
            f"{path.name} has {size:,} bytes; at most {max_bytes:,} are read.",
            path.name,
            cure,
            f"{code}_too_large",
        )
    return document


def _captions(files: Sequence[Path], names: set[str]) -> dict[str, str]:
    found = [file for file in files if file.name == CAPTIONS_FILE]
    if not found:
        return {}
    cure = 'Write UTF-8 JSON like {"red-circle.png": "a red circle"}.'
    document = _json(found[0], MAX_CAPTIONS_BYTES, cure, "captions")
    if not isinstance(document, dict):
        raise RefusedDataError(
            f"{CAPTIONS_FILE} is no object of files and captions.",
            CAPTIONS_FILE,
            cure,
            "captions_no_object",
        )
    # A file system may spell an umlaut in two characters where the captions have one.
    spelled = {unicodedata.normalize("NFC", name): name for name in names}
    captions = {}
    for number, (given, caption) in enumerate(document.items(), 1):
        name = given if given in names else spelled.get(unicodedata.normalize("NFC", given))
        if name is None:
            # The message does not repeat the name, because it is the tenant's content.
            raise RefusedDataError(
                f"Entry {number} of {CAPTIONS_FILE} names a file that was not uploaded.",
                CAPTIONS_FILE,
                "Name the uploaded files as they are called.",
                "captions_of_no_file",
            )
        captions[name] = _text(
            caption, CAPTIONS_FILE, f"The caption of entry {number} in {CAPTIONS_FILE}", "caption"
        )
    return captions


def _caption(source: str, captions: Mapping[str, str], subject: str) -> tuple[str, str]:
    """A picture's caption, and where it comes from in words."""
    if source in captions:
        return captions[source], CAPTIONS_FILE
    words = _words(source)
    return (_with_article(words), "file name") if words else (_with_article(subject), "subject")


def _words(file_name: str) -> str:
    """The words in a file's name; empty where the name does not read as words."""
    stem = unicodedata.normalize("NFC", file_name.rpartition(".")[0])[: MAX_CHARACTERS - 3]
    parts = [part for part in _BETWEEN_WORDS.split(stem) if part]
    while parts and _NUMBER.fullmatch(parts[-1]):
        parts.pop()
    plain = [part.lower() for part in parts]
    reads = all((_WORD.fullmatch(word) and _VOWEL.search(word)) or word == "a" for word in plain)
    if not plain or not reads or set(plain) & _NAMELESS or plain[-1] in _DETERMINERS:
        return ""
    return " ".join(plain)


def _with_article(words: str) -> str:
    """The words with `a` or `an` before them, unless they begin with an article."""
    if words.split()[0].lower() in _DETERMINERS or len(words) > MAX_CHARACTERS - 3:
        return words
    return f"an {words}" if words[0].lower() in "aeiou" else f"a {words}"


def _candidate(file: Path) -> _Candidate:
    try:
        content = read_file(file)
    except OSError as error:
        raise RefusedDataError(
            f"{_shown(file.name)} cannot be read ({error.strerror}).",
            file.name,
            "Upload the file again.",
            "picture_unreadable",
        ) from error
    decoded = decode_image(content, LONGEST_PREPARED)
    if decoded.one_colour:
        raise RefusedImageError(
            "one_colour",
            "shows one colour (transparency is laid on white)",
            "Upload pictures that show something.",
        )
    png = io.BytesIO()
    decoded.image.save(png, "PNG")
    pixel_hash = hashlib.sha256(repr(decoded.image.size).encode() + decoded.image.tobytes())
    thumbnail = decoded.image.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    return _Candidate(
        source=file.name,
        png=png.getvalue(),
        content_hash=hashlib.sha256(content).hexdigest(),
        pixel_hash=pixel_hash.hexdigest(),
        thumbnail=np.asarray(thumbnail, np.float32),
        decoded=decoded,
    )


def _without_duplicates(
    candidates: Sequence[_Candidate], repairs: Counter[str], dropped: dict[str, str]
) -> list[_Candidate]:
    """The pictures that stay, in their order: the largest of equal pictures, the first of equally
    large ones."""
    kept: list[int] = []
    for place in sorted(range(len(candidates)), key=lambda place: -candidates[place].pixels):
        candidate = candidates[place]
        for other in (candidates[known] for known in kept):
            equal = (
                candidate.content_hash == other.content_hash
                or candidate.pixel_hash == other.pixel_hash
            )
            if equal or _near(candidate, other):
                repairs["duplicates" if equal else "near_duplicates"] += 1
                dropped[candidate.source] = (
                    f"is {'the same as' if equal else 'nearly the same as'} {_shown(other.source)}"
                )
                break
        else:
            kept.append(place)
    return [candidates[place] for place in sorted(kept)]


def _near(one: _Candidate, other: _Candidate) -> bool:
    """Whether two pictures are one, recompressed or resized; see `NEAR_DIFFERENCE`."""
    ratios = [candidate.decoded.width / candidate.decoded.height for candidate in (one, other)]
    if max(ratios) > 1.05 * min(ratios):
        return False
    contrast = min(
        float(np.std(each.thumbnail - each.thumbnail.mean((0, 1)))) for each in (one, other)
    )
    difference = one.thumbnail - other.thumbnail
    blocks = difference.reshape(_THUMBNAIL // _BLOCK, _BLOCK, _THUMBNAIL // _BLOCK, _BLOCK, 3).mean(
        (1, 3)
    )
    rms = float(np.sqrt(np.mean(difference**2)))
    return (
        rms <= NEAR_DIFFERENCE * contrast and float(np.abs(blocks).max()) <= NEAR_LARGEST * contrast
    )


def _check_count(kept: Sequence[_Candidate], uploaded: int, dropped: Mapping[str, str]) -> None:
    if FEWEST_IMAGES <= len(kept) <= MAX_IMAGES:
        return
    reasons = [f"{_shown(name)} {reason}" for name, reason in sorted(dropped.items())]
    more = f"; and {len(reasons) - MAX_TOLD} more" if len(reasons) > MAX_TOLD else ""
    raise RefusedDataError(
        f"{len(kept)} of {uploaded} uploaded pictures can be used"
        + (f": {'; '.join(reasons[:MAX_TOLD])}{more}." if reasons else "."),
        "files",
        f"Upload {FEWEST_IMAGES} to {MAX_IMAGES} different pictures, as PNG, JPEG or WebP.",
        "too_many_pictures" if len(kept) > MAX_IMAGES else "too_few_pictures",
    )


def _size(candidate: _Candidate) -> str:
    return f"{candidate.decoded.width} × {candidate.decoded.height}"


def _shown(name: str) -> str:
    """A file's name for people and JSON: printable characters only, cut to a limit."""
    return "".join(character for character in name if character.isprintable())[:100]
