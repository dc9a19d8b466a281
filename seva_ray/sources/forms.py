"""The forms in which common data sets hold questions and an image, and how a row's form is recognised.

Question and image in two columns; `messages` with roles (OpenAI, TRL, ms-swift, LLaMA-Factory); `conversations` as in
ShareGPT and LLaVA. Images are paths, bytes, Hugging Face's struct of both, or a list with one of them.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seva_ray.core.errors import InputError

CONVERSATIONS = ("messages", "conversations", "conversation", "prompt", "texts", "qa_pairs")
"""Columns that may hold a list of turns."""

QUESTIONS = ("question", "query", "instruction", "problem", "prompt", "text", "txt", "questions")
"""Columns that may hold a question, as a text, or several in a list."""

CAPTIONS = ("text", "txt")
"""Those of them that hold captions in most data sets of images. They are read only if the user names them."""

IMAGES = (
    "jpg", "jpeg", "png", "webp", "image", "images", "img", "image_path", "image_file", "file_name",
    "img_path", "image_name", "filename", "bmp", "gif", "tif", "tiff",
)  # fmt: skip
"""Columns that may hold the image. Some are the suffixes of files in webdataset's tars."""

OTHER_IMAGES = (
    "picture", "photo", "image_url", "img_url", "image_base64", "image_b64", "image_bytes", "image_paths", "img_paths",
    "image_filename", "image_file_name", "img_name", "img_file", "file_path", "filepath",
)  # fmt: skip
"""Columns that may hold the image if nothing else in the row does."""

NUMBERED = re.compile(r"(image|img)_?\d+", re.IGNORECASE)
"""Columns of data sets with several images in a row: image_1, image_2, ..."""

PLACEHOLDERS = re.compile(
    r"<image>|<image_placeholder>|<ImageHere>|<\|image\|>|<\|image_\d+\|>|(?:Picture \d+: ?)?<img>[^<]*</img>"
    r"|<\|vision_start\|><\|image_pad\|><\|vision_end\|>"
)
"""Places of the image in texts that were written for a model: LLaVA, Janus, InternLM-XComposer, Llama 3.2, Phi-3,
Qwen-VL, Qwen2-VL."""

TAGGED = re.compile(r"<img>([^<]+)</img>")
"""An image's path in a text, in Qwen-VL's form."""

IN_STRUCTS = ("bytes", "path", "url", "image", "image_url", "base64", "data", "file_name", "filename")
"""Fields of a struct that may hold the image."""

ENCODED = ("/9j/", "iVBORw0KGgo", "UklGR", "R0lGOD", "Qk", "SUkq", "TU0A")
"""How JPEG, PNG, WebP, GIF, BMP and TIFF files begin in base64."""

USERS = ("user", "human")
"""Names of the role that asks, in small letters."""

ASSISTANTS = ("assistant", "gpt", "")
"""Names of the role that answers. A turn without a role is an answer if nothing else can be meant."""

Image = tuple[str | None, bytes | None]
"""A path and None, or None and the encoded image file."""


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row without empty columns. webdataset's column `json` holds columns too."""
    inner = row.get("json")
    columns = {**inner, **row} if isinstance(inner, Mapping) else row
    return {name: value for name, value in columns.items() if value is not None and not empty(value)}


def empty(value: Any) -> bool:
    return isinstance(value, (str, bytes, list)) and not value


class NoColumn(InputError):
    """No column of the row was recognised."""


def spelled(row: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    """The row's columns with these names, in their order; then those that differ in case or in outer white space."""
    yield from (name for name in names if name in row)
    small = {name.strip().lower(): name for name in row if name not in names}
    yield from (small[name] for name in names if name in small)


def as_list(value: Any) -> list[Any] | None:
    """The list, also if it was written as a JSON text, as in a CSV file; None if it is no list."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, list) else None


def conversation_in(row: Mapping[str, Any]) -> list[Any] | None:
    """The row's list of turns, if it has one."""
    found = (as_list(row[name]) for name in spelled(row, CONVERSATIONS))
    return next((turns for turns in found if turns and isinstance(turns[0], Mapping)), None)


def questions_of(row: Mapping[str, Any], columns: Mapping[str, str]) -> list[str]:
    """The questions of a row: one, or all turns of the user. `columns` names columns that are not to be recognised.

    Raises: InputError if the row has none, or one that may be a caption.
    """
    turns = named(row, columns, "conversation")
    if turns is not None:
        turns = as_list(turns) or turns
    elif "question" not in columns:
        turns = conversation_in(row)
    if turns is not None:
        return [cleaned(text) for text in user_turns(turns)]
    names = [columns["question"]] if "question" in columns else list(spelled(row, QUESTIONS))
    if not names:
        raise NoColumn(f"no column with a question ({', '.join(QUESTIONS)}, or a list of turns)")
    name = next((name for name in names if is_question(row.get(name))), names[0])
    if "question" not in columns and name.strip().lower() in CAPTIONS:
        raise NoColumn(f"column {name!r} may hold captions, so it is asked only if you name it as the question")
    question = named(row, {"question": name}, "question")
    if not is_question(question):
        raise InputError(f"column {name!r}: must be a text, not {type(question).__name__}")
    if isinstance(question, list):
        return [cleaned(text) for text in question]
    more = row.get("input") if name == "instruction" and not columns else None  # the form of Alpaca
    return [cleaned(f"{question}\n{more}" if isinstance(more, str) else str(question))]


def is_question(value: Any) -> bool:
    """Whether it is a text, a whole number, or a list of texts."""
    if isinstance(value, list):
        return all(isinstance(text, str) for text in value)
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def image_of(row: Mapping[str, Any], columns: Mapping[str, str]) -> Image:
    """The row's image. Raises: InputError if it has none, or several."""
    value = named(row, columns, "image")
    if value is None:
        value = next((row[name] for name in spelled(row, IMAGES)), None)
    if value is None:
        turns: Any = conversation_in(row) or []
        value = [image for turn in turns for image in images_in(turn)]
        value = value or [row[name] for name in row if NUMBERED.fullmatch(name)]
        value = value or [row[name] for name in spelled(row, OTHER_IMAGES)][:1]
    if (several := as_list(value)) is not None:
        if not several:
            raise NoColumn(f"no column with an image ({', '.join(IMAGES[:8])}, ...)")
        if len(several) > 1:
            raise InputError(f"has {len(several)} images; rows with one image are read")
        value = several[0]
    while isinstance(value, Mapping):
        value = next((value[name] for name in IN_STRUCTS if value.get(name)), None)
    if isinstance(value, bytes) and value:
        return None, value
    if not isinstance(value, str) or not value:
        raise InputError("the image is neither a path, nor bytes, nor a struct of them")
    if value.startswith("data:"):
        return None, inline(value)
    if value.startswith(ENCODED) and (encoded := from_base64(value)):
        return None, encoded
    if value.startswith(("http://", "https://")):
        raise InputError("the image is at a web address, and nothing is downloaded; fetch it and give its path")
    return value.removeprefix("file://").replace("\\", "/"), None


def inline(url: str) -> bytes:
    """The bytes in a `data:` URL. Raises: InputError if they are not base64."""
    try:
        return base64.b64decode(url.partition(",")[2], validate=True)
    except binascii.Error:
        raise InputError("the image is a data URL that is not base64") from None


def from_base64(text: str) -> bytes | None:
    """The bytes of a text in base64. None if it is no such text, or too short for an image: it may be a path."""
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if len(data) > 40 else None


def named(row: Mapping[str, Any], columns: Mapping[str, str], key: str) -> Any:
    """The value in the column that the user named for this; None if none was named. Raises: InputError if it is not
    there or empty."""
    if key not in columns:
        return None
    if columns[key] not in row:
        raise InputError(f"column {columns[key]!r}: not there or empty; the row has {', '.join(row)}")
    return row[columns[key]]


def user_turns(turns: Any) -> Iterator[str]:
    """The texts of the user's turns. Raises: InputError if there are none."""
    of_users = [turn for turn in turns if isinstance(turn, Mapping)] if isinstance(turns, list) else []
    texts = [text for turn in of_users if (text := asked_in(turn)) is not None]
    if not texts:
        raise InputError(f"the conversation has no turn of a {' or '.join(USERS)}")
    yield from texts


def asked_in(turn: Mapping[str, Any]) -> str | None:
    """The question in a turn; None if it is another's turn. In some data sets a turn is a question and its answer."""
    if role_of(turn) in USERS:
        return text_of(turn)
    both = (turn.get(name) for name in ("user", "question"))
    return next((text for text in both if isinstance(text, str)), None) if not role_of(turn) else None


def role_of(turn: Mapping[str, Any]) -> str:
    return str(turn.get("role") or turn.get("from") or "").lower()


def text_of(turn: Mapping[str, Any]) -> str:
    """The text of a turn, which may be a list of parts."""
    content = content_of(turn)
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InputError("a turn of the conversation has no text")
    parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    return "\n".join(part for part in parts if isinstance(part, str))


def content_of(turn: Mapping[str, Any]) -> Any:
    return next((turn[name] for name in ("content", "value", "text") if turn.get(name) is not None), None)


def images_in(turn: Any) -> Iterator[Any]:
    """The images in a turn: among its parts, such as {type: image_url, image_url: {url: ...}}, or in its text."""
    content = content_of(turn) if isinstance(turn, Mapping) else None
    if isinstance(content, str):
        yield from TAGGED.findall(content)
    for part in content if isinstance(content, list) else []:
        if isinstance(part, Mapping):
            yield from (part[name] for name in ("image", "image_url", "url", "path") if part.get(name))
            if isinstance(part.get("source"), Mapping):  # the form of Anthropic
                yield part["source"]


def cleaned(question: str) -> str:
    return PLACEHOLDERS.sub("", question).strip()


def only_known(columns: Mapping[str, str], known: Sequence[str]) -> str | None:
    """The first key that is not known, or None."""
    return next((key for key in columns if key not in known), None)
