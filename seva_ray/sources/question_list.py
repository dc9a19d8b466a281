"""Questions from lists in the form of LLaVA's and SeVa's own scripts: one JSON object {image, text} per line.

In: one list, or a directory of lists. Out: prompts in the lists' order. The texts are not cleaned: they are asked as
they stand, with the white space around them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.fingerprints import place
from seva_ray.core.records import Prompt
from seva_ray.core.storage import absolute, files_in, is_directory
from seva_ray.sources.base import check_directory, check_names, checked, failed
from seva_ray.sources.files import LINES, json_rows


@dataclass(frozen=True, kw_only=True)
class QuestionList:
    """Lists of {image, text} as the authors' scripts write them. Every text is asked exactly as it stands."""

    kind: ClassVar[str] = "QuestionList"

    path: str = place()
    """A list, or a directory of lists: local or fsspec URI. A list is a .json or .jsonl file with one object per
    line."""
    image_root: str = place()
    """The directory or fsspec URI that holds the images."""
    folders: dict[str, str] = field(default_factory=dict)
    """The folder below image_root in which the images of a list lie, by the list's name without suffix: such as
    `ocrvqa_image_question_list_8k ocr_vqa/images`. Its first part is the source of the list's prompts. A list that is
    not named here has its images in image_root, and its own name as source."""

    def __post_init__(self) -> None:
        check_names(self, "path", "image_root")
        object.__setattr__(self, "path", absolute(self.path))
        object.__setattr__(self, "image_root", absolute(self.image_root))
        for name, folder in self.folders.items():
            if not folder.strip("/") or folder.startswith("/"):
                raise ConfigError(f"folders of {name} {folder!r}: must be a folder below image_root")

    def prompts(self) -> Iterator[Prompt]:
        check_directory("image_root", self.image_root)
        yield from checked(self._prompts())

    def _prompts(self) -> Iterator[Prompt]:
        lists = self._lists()
        for name in self.folders:
            if name not in lists:
                raise InputError(f"folders {name!r}: {self.path} has no list of this name; it has {', '.join(lists)}")
        for name, uri in lists.items():
            for number, row in enumerate(json_rows(uri, lone=True)):
                yield self._prompt(row, name, number)

    def _lists(self) -> dict[str, str]:
        """The lists by their names. Raises: InputError if there are none."""
        suffixes = (".json", *LINES)
        if not is_directory(self.path):
            return {stem(self.path.rpartition("/")[2]): self.path}
        names = sorted(name for name in files_in(self.path) if name.endswith(suffixes) and not name.startswith("."))
        if not names:
            raise InputError(f"{self.path}: no list in this directory (suffixes {', '.join(suffixes)})")
        return {stem(name): f"{self.path.rstrip('/')}/{name}" for name in names}

    def _prompt(self, row: Any, name: str, number: int) -> Prompt:
        folder = self.folders.get(name, "").strip("/")
        prompt_id, source = f"{name}-{number}", folder.split("/")[0] or name
        fields = [row.get(key) for key in ("image", "text")] if isinstance(row, dict) else []
        image, text = [value if isinstance(value, str) else "" for value in fields] or ["", ""]
        if not image or not text:
            return failed(prompt_id, f"row {number} of {name}: must be an object with the texts image and text", source)
        path = f"{folder}/{image}".lstrip("/") if folder else image
        return Prompt(prompt_id=prompt_id, image_id=path, question=text, source=source, image_path=path)


def stem(name: str) -> str:
    return name.rpartition(".")[0]
