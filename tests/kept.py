"""All kept pairs of an artifact in one table, which only tests can afford."""

import pyarrow as pa

from seva_ray.core.artifacts import Artifact
from seva_ray.core.storage import read_table
from seva_ray.pairs.files import files_of


def read_pairs(pairs: Artifact) -> pa.Table:
    """The pairs, in the prompts' order."""
    return pa.concat_tables([read_table(uri) for uri in files_of(pairs)])
