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
from seva_ray.core.records import RESPONSE_SCHEMA, Response, table
from seva_ray.core.storage import read_schema, read_table, write_table
from seva_ray.engines import Request
from seva_ray.engines.buffers import Packing, unpacked
from seva_ray.engines.counts import COUNTS, Counts, counts_of, read_counts
from seva_ray.engines.encoded import encode, encoded_of
from seva_ray.engines.units import Encoded, EncodedPrompt, Unit, answer, is_committed
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
    assert [response.prompt_id for response in answer(encoded, Parrot())] == ["a", "b", "c"]
    rows = {row["prompt_id"]: row for row in read_table(uri).to_pylist()}
    assert rows["a"]["error"] == "the answer contains the image placeholder"
    assert (rows["b"]["error"], rows["b"]["token_ids"]) == (None, [7, 8])
    assert rows["c"]["error"] == "no image"


def test_the_first_unit_takes_the_name_of_its_artifact_and_one_of_another_recipe_writes_nothing(tmp_path: Path) -> None:
    mine, other = (Store(str(tmp_path)).open("responses/m/p/clean", config=size) for size in (1, 2))
    for artifact in (mine, other):
        about = json.dumps({"name": artifact.name, "uri": artifact.uri, "recipe": artifact.recipe})
        shard = artifact.path(f"shard-{artifact.recipe['config']}.parquet")
        again = Encoded(unit=unit(shard, about), prompts=[], image_token_id=IMAGE_TOKEN)
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


VIEWS = ["clean", "diffusion-500", "rand_flip", "random_rotation+diffusion-300", "diffusion-500=2"]


def units_of(shard: str, image_root: Path, views: Sequence[str]) -> list[Unit]:
    about = replace(unit("responses"), prompts_uri=shard, image_root=str(image_root))
    return [replace(about, view=view) for view in views]


@pytest.mark.parametrize("views", [*([view] for view in VIEWS), VIEWS, VIEWS[::-1]], ids=len)
def test_what_an_engine_gets_of_a_unit_is_what_the_rows_are(views, shard, toy_model, tmp_path):
    """A row is the same, whichever other views are encoded with it."""
    viewer = Viewer(encoder=Encoder(toy_model), image_root=str(tmp_path), max_pixels=10**6)
    rows = {row["prompt_id"]: row for row in read_table(shard).to_pylist()}
    units = units_of(shard, tmp_path, views)
    encoded = encoded_of(*encode(units, viewer))
    assert [again.unit for again in encoded] == units
    for again in encoded:
        view = again.unit.view
        assert [prompt.prompt_id for prompt in again.prompts] == list("abcdefg")
        assert [request.prompt_id for request in again.requests()] == list("abdf")
        errors = {prompt.prompt_id: prompt.error or "" for prompt in again.prompts if prompt.row is None}
        assert errors["g"] == "no question"
        assert "holds the image placeholder" in errors["c"]
        assert "no such file under image_root" in errors["e"]
        for request in again.requests():
            row, alone = viewer.encoder.finished(request.row), viewer.row(rows[request.prompt_id], view)
            assert (row.ids, row.num_image_tokens, row.size) == (alone.ids, alone.num_image_tokens, alone.size)
            assert row.features["pixel_values"].tobytes() == alone.features["pixel_values"].tobytes()
            assert row.features["pixel_values"].dtype == np.float32
        ids = {request.prompt_id: request.image_id for request in again.requests()}
        assert (ids["a"] == ids["d"], ids["b"] == ids["f"]) == ((True, True) if view == "clean" else (False, False))
    named = {request.image_id for again in encoded for request in again.requests()}
    num_names = sum(2 if view == "clean" else 4 for view in views)
    assert len(named) == num_names, "other pixels have the same name"


ENDLESS = (
    "{% for message in messages %}{% for part in message.content %}{% if part.text == 'how many ?' %}"
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    "{% elif part.text == 'what color ?' %}{{ 1 / 0 }}{% endif %}{% endfor %}{% endfor %}"
)
"""The start of a chat template that does not end for one question, and fails for another one."""


def test_a_question_for_which_the_chat_template_fails_or_does_not_end_fails_alone(
    shard: str, toy_model: str, tmp_path: Path
):
    viewer = Viewer(encoder=Encoder(toy_model), image_root=str(tmp_path), max_pixels=10**6)
    plain = viewer.encoder.processor.chat_template
    viewer.encoder.processor.chat_template = ENDLESS + plain
    (encoded,) = encoded_of(*encode(units_of(shard, tmp_path, ["clean"]), viewer, row_cpu_s=0.5))
    errors = {prompt.prompt_id: prompt.error for prompt in encoded.prompts if prompt.row is None}
    assert errors["b"] == "the row takes more than 0.5 s of CPU time"
    assert errors["d"] == errors["f"] == "its chat template fails (division by zero)"
    assert [request.prompt_id for request in encoded.requests()] == ["a"]


def test_an_image_travels_once_as_levels_for_all_views_that_do_not_change_it(shard, toy_model, tmp_path):
    viewer = Viewer(encoder=Encoder(toy_model), image_root=str(tmp_path), max_pixels=10**6)
    levels = viewer.encoder.features["pixel_values"].size
    of_texts = 4 * 400
    shared, others = ["clean", "diffusion-500", "diffusion-500=2"], ["pad-20", "pad-9+diffusion-300"]
    for views, num_images in ((shared, 2), (others[:1], 4), (shared + others, 2 + 4 + 4)):
        _, buffer = encode(units_of(shard, tmp_path, views), viewer)
        assert num_images * levels < buffer.nbytes < num_images * levels + (num_images + 1) * of_texts


def test_an_image_is_opened_and_preprocessed_once_for_all_its_questions_and_views(
    shard, toy_model, tmp_path, monkeypatch
):
    encoder = Encoder(toy_model)
    viewer = Viewer(encoder=encoder, image_root=str(tmp_path), max_pixels=10**6)
    opened, processed = [], []

    def open_one(self: Viewer, row: dict[str, str]) -> Image.Image:
        opened.append(row["image_path"])
        return OPEN(self, row)

    def count(image: Image.Image) -> Image.Image:
        processed.append(image)
        return encoder.as_shrunk(image)

    monkeypatch.setattr(Viewer, "image", open_one)
    monkeypatch.setattr(encoder.reader.image_processor, "before", count)
    encode(units_of(shard, tmp_path, ["diffusion-500", "pad-20", "clean", "diffusion-800", "control-batch"]), viewer)
    assert opened == ["clock.png", "ring.png", "none.png"]
    assert len(processed) == 2 + 4, "each image once, and once for each of its prompts in the view that changes it"


OPEN = Viewer.image


def test_only_the_prompts_that_failed_are_encoded_again_and_other_views_of_the_shard_whole(shard, toy_model, tmp_path):
    viewer = Viewer(encoder=Encoder(toy_model), image_root=str(tmp_path), max_pixels=10**6)
    before = [
        Response(prompt_id=prompt_id, error="no") if prompt_id in "bg" else Response(prompt_id=prompt_id, text="x")
        for prompt_id in "abcdefg"
    ]
    uri = str(tmp_path / "responses.parquet")
    write_table(uri, table(before, RESPONSE_SCHEMA))
    clean, noisy = units_of(shard, tmp_path, VIEWS[:2])
    again, whole = encoded_of(*encode([replace(clean, retry=True, responses_uri=uri), noisy], viewer))
    assert [prompt.prompt_id for prompt in again.prompts] == ["b"], "a row that cannot be used is not tried again"
    assert [prompt.prompt_id for prompt in whole.prompts] == list("abcdefg")


def test_a_commit_has_its_counts_and_is_not_made_twice(tmp_path):
    uri = str(tmp_path / "shard.parquet")
    prompts = [EncodedPrompt(prompt_id="a", row=row(7, 8), image_id="x"), EncodedPrompt(prompt_id="c", error="no 1")]
    write_table(str(tmp_path / "prompts.parquet"), pa.table({"prompt_id": ["a", "c"]}))
    of_shard = replace(unit(uri), prompts_uri=str(tmp_path / "prompts.parquet"))
    assert not is_committed(of_shard)
    counts = counts_of(answer(Encoded(unit=of_shard, prompts=prompts, image_token_id=IMAGE_TOKEN), Parrot()), "clean")
    assert is_committed(of_shard)
    assert counts.numbers == {"num_responses": 2, "num_tokens": 2, "num_stop": 1, "num_error": 1}
    assert counts.reasons.lines() == ["1 failed: 'c': no 1"]
    assert Counts.of((read_schema(uri).metadata or {})[COUNTS]) == read_counts(uri, "clean") == counts
    assert not is_committed(replace(of_shard, retry=True)), "its failed rows are to come"
    write_table(uri, read_table(uri).replace_schema_metadata(None))  # as an older version wrote it
    assert read_counts(uri, "clean") == counts
    write_table(str(tmp_path / "prompts.parquet"), pa.table({"prompt_id": ["a", "d"]}))
    assert not is_committed(of_shard), "it belongs to other prompts"
    write_table(str(tmp_path / "prompts.parquet"), pa.table({"prompt_id": ["a", "c"]}))
    Path(uri).write_bytes(Path(uri).read_bytes()[:-20])
    assert not is_committed(of_shard), "it is cut"


def test_arrays_of_all_types_and_shapes_come_back_from_the_buffer():
    items: list[dict[str, np.ndarray]] = [
        {"a": np.arange(5, dtype=np.int32), "b": np.ones((2, 0, 3), np.float16)},
        {},
        {"a": np.array([7.5]), "c": np.arange(12, dtype=np.uint8).reshape(3, 4)[:, ::2]},
    ]
    packing = Packing()
    places = [packing.add(item) for item in items]
    for given, found in zip(items, unpacked(json.loads(json.dumps(places)), packing.buffer()), strict=True):
        assert given.keys() == found.keys()
        for name, array in given.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            assert found[name].tobytes() == array.tobytes()
            assert found[name].base is not None, "it was copied"
            assert found[name].ctypes.data % found[name].itemsize == 0
