"""All kept pairs of an artifact in one table, which only tests can afford."""

import pyarrow as pa

from seva_ray.artifacts import Artifact
from seva_ray.stages.pair import files_of
from seva_ray.storage import read_table


def read_pairs(pairs: Artifact) -> pa.Table:
    """In the prompts' order."""
    return pa.concat_tables([read_table(uri) for uri in files_of(pairs)])
