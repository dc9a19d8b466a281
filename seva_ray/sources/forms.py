"""The forms in which common data sets hold questions and an image, and how a row's form is recognised.

Question and image in two columns; `messages` with roles (OpenAI, TRL, ms-swift, LLaMA-Factory); `conversations` as in
ShareGPT and LLaVA. Images are paths, bytes, Hugging Face's struct of both, or a list with one of them.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seva_ray.core.errors import InputError
from seva_ray.sources.base import PLACEHOLDER

CONVERSATIONS = ("messages", "conversations", "conversation", "prompt")
"""Columns that may hold a list of turns."""

QUESTIONS = ("question", "query", "instruction", "problem", "prompt", "text", "txt")
"""Columns that may hold a question, as a text."""

IMAGES = ("jpg", "jpeg", "png", "webp", "image", "images", "img", "image_path", "image_file", "file_name")
"""Columns that may hold the image. The first four are the suffixes of files in webdataset's tars."""

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


def questions_of(row: Mapping[str, Any], columns: Mapping[str, str]) -> list[str]:
    """The questions of a row: one, or all turns of the user. `columns` names columns that are not to be recognised.

    Raises: InputError if the row has none.
    """
    turns = named(row, columns, "conversation")
    if turns is None and "question" not in columns:
        turns = next((row[name] for name in CONVERSATIONS if isinstance(row.get(name), list)), None)
    if turns is not None:
        return [cleaned(text) for text in user_turns(turns)]
    question = named(row, columns, "question")
    name = columns.get("question") or next((name for name in QUESTIONS if isinstance(row.get(name), str)), None)
    if question is None and name is None:
        raise InputError(f"no column with a question ({', '.join(QUESTIONS)}, or a list of turns); {advice(row)}")
    if question is None and name is not None:
        question = row[name]
    if isinstance(question, bool) or not isinstance(question, (str, int)):
        raise InputError(f"column {name!r}: must be a text, not {type(question).__name__}")
    more = row.get("input") if name == "instruction" and not columns else None  # the form of Alpaca
    return [cleaned(f"{question}\n{more}" if isinstance(more, str) else str(question))]


def image_of(row: Mapping[str, Any], columns: Mapping[str, str]) -> Image:
    """The row's image. Raises: InputError if it has none, or several."""
    value = named(row, columns, "image")
    if value is None:
        value = next((row[name] for name in IMAGES if name in row), None)
    if value is None:
        turns: Any = next((row[name] for name in CONVERSATIONS if isinstance(row.get(name), list)), [])
        value = [image for turn in turns for image in images_in(turn)]
    if isinstance(value, list):
        if not value:
            raise InputError(f"no column with an image ({', '.join(IMAGES)}); {advice(row)}")
        if len(value) > 1:
            raise InputError(f"has {len(value)} images; rows with one image are read")
        value = value[0]
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path") or value.get("url")
    if isinstance(value, bytes) and value:
        return None, value
    if not isinstance(value, str) or not value:
        raise InputError("the image is neither a path, nor bytes, nor a struct of them")
    if value.startswith("data:"):
        return None, inline(value)
    if value.startswith(("http://", "https://")):
        raise InputError("the image is at a web address, and nothing is downloaded; fetch it and give its path")
    return value.removeprefix("file://"), None


def inline(url: str) -> bytes:
    """The bytes in a `data:` URL. Raises: InputError if they are not base64."""
    try:
        return base64.b64decode(url.partition(",")[2], validate=True)
    except binascii.Error:
        raise InputError("the image is a data URL that is not base64") from None


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
    texts = [text_of(turn) for turn in turns if isinstance(turn, Mapping) and role_of(turn) in USERS]
    if not isinstance(turns, list) or not texts:
        raise InputError(f"the conversation has no turn of a {' or '.join(USERS)}")
    yield from texts


def role_of(turn: Mapping[str, Any]) -> str:
    return str(turn.get("role") or turn.get("from") or "").lower()


def text_of(turn: Mapping[str, Any]) -> str:
    """The text of a turn, which may be a list of parts."""
    content = turn.get("content") if turn.get("content") is not None else turn.get("value")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InputError("a turn of the conversation has no text")
    parts = [part.get("text") for part in content if isinstance(part, Mapping)]
    return "\n".join(part for part in parts if isinstance(part, str))


def images_in(turn: Any) -> Iterator[Any]:
    """The images among the parts of a turn, such as {type: image_url, image_url: {url: ...}}."""
    content = turn.get("content") if isinstance(turn, Mapping) else None
    for part in content if isinstance(content, list) else []:
        if isinstance(part, Mapping):
            yield from (part[name] for name in ("image", "image_url", "url", "path") if part.get(name))


def cleaned(question: str) -> str:
    return question.replace(PLACEHOLDER, "").strip()


def advice(row: Mapping[str, Any]) -> str:
    """What helps if a column was not recognised."""
    return f"the row has {', '.join(row) or 'no column'}; name yours with --source.columns question NAME image NAME"


def only_known(columns: Mapping[str, str], known: Sequence[str]) -> str | None:
    """The first key that is not known, or None."""
    return next((key for key in columns if key not in known), None)
