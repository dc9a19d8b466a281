"""The kept pairs as the official SeVa code reads them: one JSON file, with a row for each rejected response."""

import json
from collections.abc import Iterator

from seva_ray.core.artifacts import Artifact
from seva_ray.core.shards import read_each
from seva_ray.core.storage import read_table, write_parts
from seva_ray.pairs.files import files_of


def write_official(pairs: Artifact) -> None:
    write_parts(pairs.path("pairs.json"), lambda: official_json(pairs))


def official_json(pairs: Artifact) -> Iterator[bytes]:
    """The kept pairs in the official JSON, with one row on each line, in parts: never all pairs are in memory."""
    start = "[\n"
    for rows in read_each(official_rows, files_of(pairs)):
        yield (start + rows).encode()
        start = ",\n"
    yield ("[\n]\n" if start == "[\n" else "\n]\n").encode()


def official_rows(uri: str) -> str:
    return ",\n".join(
        json.dumps(
            {
                "chosen": row["chosen"],
                "reject": rejected["text"],
                "question": row["question"],
                "image_id": row["image_id"],
            },
            ensure_ascii=False,
        )
        for row in read_table(uri, columns=["chosen", "rejected", "question", "image_id"]).to_pylist()
        for rejected in row["rejected"]
    )
