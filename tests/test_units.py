"""A unit's answers: every row is there once, as a response or as its error."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from seva_ray.core.artifacts import Store
from seva_ray.core.errors import FingerprintMismatch
from seva_ray.core.records import Response
from seva_ray.core.storage import read_table, write_table
from seva_ray.engines import Request
from seva_ray.engines.buffers import packed, unpacked
from seva_ray.engines.units import Encoded, EncodedPrompt, Unit, answer, encode
from seva_ray.toy.world import make_scene, render
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.rows import Row
from seva_ray.vlm.views import Viewer

IMAGE_TOKEN = 3


class Parrot:
    """Answers with the tokens that it was asked."""

    num_unanswered = 0

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        return [
            Response(prompt_id=item.prompt_id, text="x", token_ids=item.row.ids, finish_reason="stop")
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


def row(*ids: int) -> Row:
    return Row(ids=ids, num_image_tokens=1, features={"pixel_values": np.zeros((1, 3, 2, 2), np.float32)})


def test_an_answer_that_holds_the_image_placeholder_is_an_error_of_its_own_row(tmp_path: Path) -> None:
    uri = str(tmp_path / "shard.parquet")
    encoded = Encoded(
        unit=unit(uri),
        prompts=[
            EncodedPrompt(prompt_id="a", row=row(7, IMAGE_TOKEN), image_id="x"),
            EncodedPrompt(prompt_id="b", row=row(7, 8), image_id="x"),
            EncodedPrompt(prompt_id="c", error="no image"),
        ],
        image_token_id=IMAGE_TOKEN,
    )
    again = Encoded.of(*encoded.packed())  # as it travels to an engine
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
        again = Encoded.of(*Encoded(unit=unit(shard, about), prompts=[], image_token_id=IMAGE_TOKEN).packed())
        if artifact is mine:
            answer(again, Parrot())
        else:
            with pytest.raises(FingerprintMismatch, match=r"responses/m/p/clean: made by another .*config: 1 -> 2"):
                answer(again, Parrot())
    assert {path.name for path in Path(mine.uri).iterdir()} == {"recipe.json", "shard-1.parquet"}


PROMPTS = [
    *(
        ("a", "clock.png", "how many objects are there ?"),
        ("b", "ring.png", "how many ?"),
        ("c", "clock.png", "a <image>"),
    ),
    *(("d", "clock.png", "what color ?"), ("e", "none.png", "what color ?"), ("f", "ring.png", "what color ?")),
]


@pytest.fixture
def shard(tmp_path: Path) -> str:
    """Two images with several questions each, a question that cannot be asked, and an image that is not there."""
    for number, name in enumerate(("clock.png", "ring.png")):
        Image.fromarray(render(make_scene(7, "test", number))).save(tmp_path / name)
    prompts = [
        {"prompt_id": prompt_id, "image_path": path, "image_bytes": None, "question": question, "error": None}
        for prompt_id, path, question in PROMPTS
    ]
    failed = {"prompt_id": "g", "image_path": "clock.png", "image_bytes": None, "question": "x", "error": "no question"}
    write_table(str(tmp_path / "shard.parquet"), pa.Table.from_pylist([*prompts, failed]))
    return str(tmp_path / "shard.parquet")


@pytest.mark.parametrize("view", ["clean", "diffusion-500", "rand_flip"])
def test_what_an_engine_gets_of_a_unit_is_what_the_rows_are(view, shard, toy_model, tmp_path):
    viewer = Viewer(encoder=Encoder(toy_model), image_root=str(tmp_path), max_pixels=10**6)
    about = replace(unit("responses"), prompts_uri=shard, view=view, image_root=str(tmp_path))
    encoded = encode(about, viewer)
    header, arrays = encoded.packed()
    again = Encoded.of(header, arrays)
    assert [prompt.prompt_id for prompt in again.prompts] == list("abcdefg")
    assert [request.prompt_id for request in again.requests()] == list("abdf")
    errors = {prompt.prompt_id: prompt.error or "" for prompt in again.prompts if prompt.row is None}
    assert errors["g"] == "no question"
    assert "holds the image placeholder" in errors["c"]
    assert "no such file under image_root" in errors["e"]
    rows = {row["prompt_id"]: row for row in read_table(shard).to_pylist()}
    for request in again.requests():
        alone = viewer.row(rows[request.prompt_id], view)
        assert request.row.ids == alone.ids
        assert request.row.num_image_tokens == alone.num_image_tokens
        assert request.row.size == alone.size
        assert request.row.features["pixel_values"].tobytes() == alone.features["pixel_values"].tobytes()
    ids = {request.prompt_id: request.image_id for request in again.requests()}
    assert (ids["a"] == ids["d"], ids["b"] == ids["f"]) == ((True, True) if view == "clean" else (False, False))
    pixels = again.requests()[0].row.features["pixel_values"].nbytes
    assert arrays.nbytes < (2 if view == "clean" else 4) * pixels + 4000, "an image travels more than once"


def test_an_image_is_opened_and_preprocessed_once_for_all_its_questions(shard, toy_model, tmp_path, monkeypatch):
    encoder = Encoder(toy_model)
    viewer = Viewer(encoder=encoder, image_root=str(tmp_path), max_pixels=10**6)
    processed: list[Image.Image] = []

    def count(image: Image.Image) -> Image.Image:
        processed.append(image)
        return image

    monkeypatch.setattr(encoder.reader.image_processor, "before", count)
    encode(replace(unit("responses"), prompts_uri=shard, image_root=str(tmp_path)), viewer)
    assert len(processed) == 2


def test_arrays_of_all_types_and_shapes_come_back_from_the_buffer():
    items: list[dict[str, np.ndarray]] = [
        {"a": np.arange(5, dtype=np.int32), "b": np.ones((2, 0, 3), np.float16)},
        {},
        {"a": np.array([7.5])},
    ]
    places, buffer = packed(items)
    for given, found in zip(items, unpacked(json.loads(json.dumps(places)), buffer), strict=True):
        assert given.keys() == found.keys()
        for name, array in given.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            assert found[name].tobytes() == array.tobytes()
            assert found[name].base is not None, "it was copied"
