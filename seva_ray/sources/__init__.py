"""Where prompts come from: one file per source. To add one, write a dataclass like those here, and add it below."""

from seva_ray.sources.base import Source
from seva_ray.sources.folder import Folder
from seva_ray.sources.llava import LlavaJson
from seva_ray.sources.table import Table
from seva_ray.sources.toy_world import ToyWorld

__all__ = ["Folder", "LlavaJson", "Source", "Table", "ToyWorld"]
