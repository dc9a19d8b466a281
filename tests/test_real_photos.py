"""prepare -> generate -> pair on real photographs in LLaVA's format, in every image mode, through real vLLM."""

import json
import shutil

import pytest

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.storage import read_table
from seva_ray.engines import Decoding, VllmEngine
from seva_ray.engines.config import Generate
from seva_ray.sources import LlavaJson
from seva_ray.stages.generate import generate
from seva_ray.stages.pair import Pair, pair
from seva_ray.stages.prepare import Prepare, prepare, shards_of
from seva_ray.vlm.models import model_at
from tests.real_photos import write_photos

BAD_IMAGES = {"missing.jpg": None, "truncated.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF", "text.jpg": b"not an image"}
LONG_QUESTIONS = {"long-question": 600, "long-with-its-image": 490}
"""And how many words they have; the engine reads 512 tokens, and 36 are the image's."""


@pytest.fixture(scope="module")
def rows(ray_cluster: None, toy_model: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """The verdict rows of every question, bad images among the good ones."""
    folder = tmp_path_factory.mktemp("photos")
    path = write_photos(folder)
    published = json.loads(path.read_text())
    for name, data in BAD_IMAGES.items():
        if data is not None:
            (folder / "images" / "gqa" / name).write_bytes(data)
        turns = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "A cat."}]
        published.append({"id": name, "image": f"gqa/{name}", "conversations": turns})
    for name, num_words in LONG_QUESTIONS.items():
        turns = [{"from": "human", "value": "<image>\n" + "word " * num_words}, {"from": "gpt", "value": "Yes."}]
        shutil.copyfile(folder / "images/gqa/china.jpg", folder / f"images/gqa/{name}.jpg")
        published.append({"id": name, "image": f"gqa/{name}.jpg", "conversations": turns})
    path.write_text(json.dumps(published))
    every = dict.fromkeys(("ocr_vqa", "textvqa", "gqa"), 1000)
    source = LlavaJson(path=str(path), image_root=str(folder / "images"), counts=every)
    store = Store(str(tmp_path_factory.mktemp("runs")))
    engine = VllmEngine(dtype="float32", max_model_len=512, enforce_eager=True)
    generation = Generate(engine=engine, decoding=Decoding(max_new_tokens=8), system="")
    prompts = prepare(Prepare(shard_size=16), store, "photos", source)
    work = [(prompts, "clean"), (prompts, "diffusion-500")]
    chosen, rejected = generate(generation, store, model_at(toy_model), work)
    pairs = pair(Pair(), store, prompts, chosen, [rejected])
    return verdict_rows(prompts, pairs)


def verdict_rows(prompts: Artifact, pairs: Artifact) -> list[dict]:
    names = shards_of(prompts)
    return [row for name in names for row in read_table(pairs.path("verdicts", name)).to_pylist()]


def test_every_question_about_a_readable_photo_is_answered_in_both_views(rows: list[dict]):
    bad = [*BAD_IMAGES, *LONG_QUESTIONS]
    good = [row for row in rows if not any(name in row["prompt_id"] for name in bad)]
    assert len(good) >= 20
    assert {row["verdict"] for row in good} <= {"kept", "equal"}, [row for row in good if row["verdict"] == "failed"]
    assert any(row["verdict"] == "kept" for row in good)
    assert {row["source"] for row in good} == {"ocr_vqa", "textvqa", "gqa"}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_is_one_failed_row_that_names_it(rows: list[dict], name: str):
    (row,) = [row for row in rows if name in row["prompt_id"]]
    assert row["verdict"] == "failed"
    assert name in row["error"]
    assert "\n" not in row["error"]


@pytest.mark.parametrize("name", LONG_QUESTIONS)
def test_a_question_that_is_too_long_is_one_failed_row_that_says_so(rows: list[dict], name: str):
    (row,) = [row for row in rows if name in row["prompt_id"]]
    assert row["verdict"] == "failed"
    assert "512" in row["error"]
