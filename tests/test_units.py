"""A unit's answers: every row is there once, as a response or as its error."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from seva_ray.core.artifacts import Store
from seva_ray.core.errors import FingerprintMismatch
from seva_ray.core.records import Response
from seva_ray.core.storage import read_table
from seva_ray.engines import Request
from seva_ray.engines.units import Encoded, EncodedPrompt, Unit, answer

IMAGE_TOKEN = 3


class Parrot:
    """Answers with the tokens that it was asked."""

    num_unanswered = 0

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        return [
            Response(prompt_id=item.prompt_id, text="x", token_ids=item.prompt_ids, finish_reason="stop")
            for item in requests
        ]

    def switch(self, model_directory: str) -> None:
        """It has no weights."""


def unit(uri: str, artifact: str = "") -> Unit:
    return Unit(
        model="m",
        model_directory="",
        prompts_uri="",
        responses_uri=uri,
        view="clean",
        system="",
        image_root=None,
        num_rows=2,
        artifact=artifact,
    )


def test_an_answer_that_holds_the_image_placeholder_is_an_error_of_its_own_row(tmp_path: Path) -> None:
    uri = str(tmp_path / "shard.parquet")
    encoded = Encoded(
        unit=unit(uri),
        rows=[
            EncodedPrompt(prompt_id="a", prompt_ids=[7, IMAGE_TOKEN], image=0),
            EncodedPrompt(prompt_id="b", prompt_ids=[7, 8], image=0),
            EncodedPrompt(prompt_id="c", error="no image"),
        ],
        pixels=np.zeros((1, 3, 2, 2), np.float32),
        image_token_id=IMAGE_TOKEN,
    )
    again = Encoded.of(encoded.header(), encoded.pixels)  # as it travels to an engine
    assert [response.prompt_id for response in answer(again, Parrot())] == ["a", "b", "c"]
    rows = {row["prompt_id"]: row for row in read_table(uri).to_pylist()}
    assert rows["a"]["error"] == "the answer contains the image placeholder"
    assert (rows["b"]["error"], rows["b"]["token_ids"]) == (None, [7, 8])
    assert rows["c"]["error"] == "no image"


def test_the_first_unit_takes_the_name_of_its_artifact_and_one_of_another_recipe_writes_nothing(tmp_path: Path) -> None:
    mine, other = (Store(str(tmp_path)).open("responses/m/p/clean", config=size) for size in (1, 2))
    for artifact in (mine, other):
        about = json.dumps({"name": artifact.name, "uri": artifact.uri, "recipe": artifact.recipe})
        shard = artifact.path(f"shard-{artifact.recipe['config']}.parquet")
        encoded = Encoded(
            unit=unit(shard, about), rows=[], pixels=np.zeros((1, 3, 2, 2), np.float32), image_token_id=IMAGE_TOKEN
        )
        again = Encoded.of(encoded.header(), encoded.pixels)
        if artifact is mine:
            answer(again, Parrot())
        else:
            with pytest.raises(FingerprintMismatch, match=r"responses/m/p/clean: made by another .*config: 1 -> 2"):
                answer(again, Parrot())
    assert {path.name for path in Path(mine.uri).iterdir()} == {"recipe.json", "shard-1.parquet"}
