"""A model's chat template is tried in a process of its own before a process of the job renders it.

The sandbox of jinja, in which transformers renders templates, runs no code. But a template may still run for ever or
fill the memory, and nothing can stop it inside a process. Here it has a limit of both.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seva_ray.core.errors import InputError, is_of_the_machine, line_of

LIMIT_CPU_S = 5
"""CPU time for one template, in seconds. The templates of all families that are served take a few ms."""
LIMIT_BYTES = 2**30
"""Memory for one template, in bytes."""
LIMIT_S = 120.0
"""Time after which a template that computes nothing is ended, in seconds."""
MOST_OF_ITS_OWN = 2**16
"""Characters that a template may write besides what it is given. Templates with tools write some 10,000."""
MOST_OF_EACH = 16
"""Characters that a template may write for each that it is given. In JSON a character takes up to 12."""

TRIAL = """
import json, resource, sys
given = json.load(sys.stdin)
from jinja2.sandbox import ImmutableSandboxedEnvironment
environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
resource.setrlimit(resource.RLIMIT_CPU, (given["cpu_s"], given["cpu_s"]))
if sys.platform == "linux":  # macOS may refuse such a limit
    resource.setrlimit(resource.RLIMIT_AS, (given["bytes"], given["bytes"]))
for messages in given["chats"]:
    try:
        environment.from_string(given["template"]).render(messages=messages, add_generation_prompt=True)
    except MemoryError:
        sys.exit(3)
    except Exception:
        pass  # transformers gives it more names, and says what is wrong with it
"""
"""The program of the other process. It imports nothing of a model library, which would take seconds."""

QUESTION = "What is in the image?"
LONG_QUESTION = " ".join([QUESTION] * 500)
"""11,000 characters: with the question, a template's time and memory grow too."""


def chat_about(question: str, system: str = "") -> list[dict[str, Any]]:
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    return [{"role": "system", "content": [{"type": "text", "text": system}]}, user] if system else [user]


CHATS = [chat_about(QUESTION), chat_about(QUESTION, QUESTION), chat_about(LONG_QUESTION)]
"""Not all templates take a chat with a system prompt."""


def filled_in(processor: Any, messages: list[dict[str, Any]], given: str) -> str:
    """The text that a processor's chat template makes of messages with the text `given`.

    Raises: InputError if the template fails on them, or if its text is far too long for what it was given. To make
    tokens of that would take minutes.
    """
    try:
        text: str = processor.apply_chat_template(messages, add_generation_prompt=True)
    except Exception as error:  # a template may compute anything, and may refuse messages itself
        if is_of_the_machine(error):
            raise
        raise InputError(f"its chat template fails ({line_of(error)})") from None
    if len(text) > MOST_OF_ITS_OWN + MOST_OF_EACH * len(given):
        raise InputError(f"its chat template makes {len(text):,} characters of {len(given):,}")
    return text


def check_templates(directory: str) -> None:
    """Raises: InputError if a chat template of the model takes too much time or memory."""
    for name, template in templates_in(Path(directory)):
        if fault := fault_of(template):
            raise InputError(f"model {directory}: the chat template in {name} {fault}")


def templates_in(path: Path) -> Iterator[tuple[str, str]]:
    """The files with templates, and each template once. Files that cannot be read are for others to report."""
    seen: set[str] = set()
    for file in sorted([*path.glob("*.jinja"), *path.glob("additional_chat_templates/*.jinja"), *path.glob("*.json")]):
        try:
            if not file.is_file():
                continue
            text = file.read_text(encoding="utf-8")
            found = [text] if file.suffix == ".jinja" else texts_of(json.loads(text).get("chat_template"))
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
        for template in found:
            if template not in seen:
                seen.add(template)
                yield file.name, template


def texts_of(entry: Any) -> list[str]:
    """The templates in a configuration: one, or several with names."""
    named = [item.get("template") for item in entry if isinstance(item, dict)] if isinstance(entry, list) else [entry]
    return [text for text in named if isinstance(text, str)]


def fault_of(template: str) -> str | None:
    """What is wrong with a template; None if it ends within the limits."""
    given = {"template": template, "chats": CHATS, "cpu_s": LIMIT_CPU_S, "bytes": LIMIT_BYTES}
    command = [sys.executable, "-I", "-c", TRIAL]
    try:
        done = subprocess.run(command, input=json.dumps(given).encode(), capture_output=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return f"does not end within {LIMIT_S:.0f} s"
    if done.returncode == 3:
        return f"takes more than {LIMIT_BYTES / 2**30:.0f} GiB of memory"
    return f"does not end within {LIMIT_CPU_S} s" if done.returncode < 0 else None
