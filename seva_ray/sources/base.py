"""What a source is, and the check that the prompts of every source pass through.

A bad row never stops a source: it becomes a prompt with an error. A source that cannot be read at all is an InputError.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

import pyarrow as pa

from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.records import Prompt
from seva_ray.core.storage import is_directory

PLACEHOLDER = "<image>"
"""The place of the image in LLaVA's texts. If it stayed in a question, the engine would expect one more image."""


class Source(Protocol):
    """A frozen, keyword-only dataclass; one file per source."""

    @property
    def image_root(self) -> str | None:
        """The local directory or fsspec URI that image paths are relative to; None if the prompts hold only bytes."""
        ...

    def prompts(self) -> Iterator[Prompt]:
        """Every prompt once, always in the same order, with the questions about one image next to each other.

        Raises: InputError if the files are missing or have another format than the source reads.
        """
        ...


def checked(prompts: Iterable[Prompt]) -> Iterator[Prompt]:
    """The same prompts, with unique ids (a second `x` becomes `x#2`) and an error on each that cannot be used."""
    times: dict[str, int] = {}
    for prompt in examined(prompts):
        if prompt.prompt_id in times:
            error = prompt.error or f"prompt_id {prompt.prompt_id!r} is taken by an earlier row"
            prompt = replace(prompt, prompt_id=_next_id(prompt.prompt_id, times), error=error)
        times[prompt.prompt_id] = 1
        yield prompt


def examined(prompts: Iterable[Prompt]) -> Iterator[Prompt]:
    """The same prompts, with an error on each that cannot be used. Their ids must be unique already."""
    return map(_examined, prompts)


def failed(prompt_id: str, error: str, source: str = "") -> Prompt:
    """The prompt for a row that cannot be read as a prompt."""
    return Prompt(prompt_id=prompt_id, image_id="", question="", source=source, error=error)


def as_object(row: Any) -> Mapping[str, Any]:
    """The row of a table. Raises: InputError if it is no object, or an exception that says why it cannot be read."""
    if type(row) is dict:
        return row
    if isinstance(row, InputError):
        raise row
    if isinstance(row, Exception):
        raise InputError(f"not JSON ({row})")
    if not isinstance(row, Mapping):
        raise InputError("must be an object")
    return row


def rows_in(batch: pa.RecordBatch | pa.Table) -> Iterator[Any]:
    """The rows of a batch. A row with a text that is not UTF-8 gives the exception instead; parquet does not check."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for number in range(len(batch)):
            try:
                yield from batch.slice(number, 1).to_pylist()
            except UnicodeDecodeError:
                yield InputError("a text in it is not valid UTF-8")


def check_directory(field: str, uri: str) -> None:
    """Raises: InputError if the directory does not exist."""
    if not is_directory(uri):
        raise InputError(f"{field} {uri}: no such directory")


def check_names(config: object, *names: str) -> None:
    """Raises: ConfigError if one of the fields is empty."""
    for name in names:
        if not getattr(config, name):
            raise ConfigError(f"{name} {getattr(config, name)!r}: must not be empty")


def _examined(prompt: Prompt) -> Prompt:
    texts = f"{prompt.prompt_id}{prompt.image_id}{prompt.question}{prompt.source}{prompt.image_path}{prompt.error}"
    broken = [] if texts.isascii() else _not_unicode(prompt)
    if broken:
        storable = {name: getattr(prompt, name).encode("utf-8", "backslashreplace").decode() for name in broken}
        prompt = replace(prompt, **storable)
    if prompt.error is not None:
        return prompt
    if broken:
        return replace(prompt, error=f"{broken[0]} is not valid Unicode")
    if not prompt.question.strip():
        return replace(prompt, error="the question is empty")
    if PLACEHOLDER in prompt.question:
        return replace(prompt, error=f"the question contains the placeholder {PLACEHOLDER}")
    if not prompt.image_path and not prompt.image_bytes:
        return replace(prompt, error="the row has no image")
    return prompt


def _not_unicode(prompt: Prompt) -> list[str]:
    """Names of the texts that cannot be stored."""
    texts = {name: text for name, text in vars(prompt).items() if isinstance(text, str)}
    return [name for name, text in texts.items() if text != text.encode("utf-8", "backslashreplace").decode()]


def _next_id(prompt_id: str, times: dict[str, int]) -> str:
    """The first free id among `x#2`, `x#3`, ..."""
    while True:
        times[prompt_id] += 1
        if (numbered := f"{prompt_id}#{times[prompt_id]}") not in times:
            return numbered
