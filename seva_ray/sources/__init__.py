"""Where prompts come from: one file per source. To add one, write a dataclass like those here, and add it below.

A field that names files is declared with `place()`. The recipe then holds the contents of these files, not their path.
"""

from seva_ray.sources.base import Source
from seva_ray.sources.folder import Folder
from seva_ray.sources.hf import Hf
from seva_ray.sources.llava import LlavaJson
from seva_ray.sources.question_list import QuestionList
from seva_ray.sources.table import Table
from seva_ray.sources.toy_world import ToyWorld

AnySource = ToyWorld | Hf | LlavaJson | QuestionList | Table | Folder
"""Every source that a job can read: `source:toy-world`, `source:llava-json`, ... on its command line."""
