"""Noise ladders, from answers that are there."""

import re
from pathlib import Path

import pytest

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import InputError
from seva_ray.core.records import RESPONSE_SCHEMA, Response, table
from seva_ray.core.shards import shard_name
from seva_ray.core.storage import read_table, write_table
from seva_ray.engines.config import Generate
from seva_ray.pages.ladder_page import LadderContent, PromptLadder, Rung, render
from seva_ray.sources import ToyWorld
from seva_ray.stages.generate import finish_responses, open_responses
from seva_ray.stages.ladder import LadderPage, ladder
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.vlm.models import Model, model_at


@pytest.fixture(scope="module")
def answered(toy_model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Model, Artifact]:
    """Answers at steps 100, 500 and 900. Every second prompt has another answer from step 500 on."""
    store, model = Store(str(tmp_path_factory.mktemp("runs"))), model_at(toy_model)
    prompts = prepare(Prepare(shard_size=8), store, "toy", ToyWorld(num_images=3))
    for view in ("clean", "diffusion-100", "diffusion-500", "diffusion-900", "moco"):
        artifact = open_responses(Generate(system=""), store, model, prompts, view).begin()
        for place in range(prompts.counts["num_shards"]):
            rows = []
            for number, name in enumerate(read_table(prompts.path(shard_name(place)))["prompt_id"].to_pylist()):
                flipped = number % 2 and view in ("diffusion-500", "diffusion-900")
                text = "another answer" if flipped else "the same answer"
                rows.append(Response(prompt_id=name, text=text, token_ids=[5], finish_reason="stop"))
            if place == 0:
                rows[0] = Response(prompt_id=rows[0].prompt_id, error="no image")
            write_table(artifact.path(shard_name(place)), table(rows, RESPONSE_SCHEMA))
        finish_responses(prompts, artifact)
    return store, model, prompts


def test_a_ladder_has_every_step_in_order_with_its_picture_and_says_where_the_answer_flips(answered):
    store, model, prompts = answered
    html = Path(ladder(LadderPage(num_prompts=4, only_flips=True), store, model, prompts)).read_text()
    ladders = html.split("<article>")[1:]
    assert len(ladders) == 4
    for one in ladders:
        assert "the answer is first another one at noise step 500." in one
        assert re.findall(r"<h4>([^<]*)</h4>", one) == [
            "clean", "step 100", "step 500, another answer", "step 900, another answer",
        ]  # fmt: skip
        pictures = re.findall(r'<img src="data:image/png;base64,([^"]+)"', one)
        assert len(set(pictures)) == 4
    assert "Noise steps 100, 500, 900; 4 of 4 answers shown here flip." in html


def test_a_prompt_with_a_failed_answer_is_left_out(answered):
    store, model, prompts = answered
    failed = read_table(prompts.path(shard_name(0)))["prompt_id"][0].as_py()
    html = Path(ladder(LadderPage(num_prompts=100), store, model, prompts)).read_text()
    assert len(html.split("<article>")) - 1 == prompts.counts["num_prompts"] - 1
    assert f"<p>{failed}:" not in html


def test_too_few_views_are_one_line_that_says_how_to_make_more(tmp_path: Path, answered):
    _, model, _ = answered
    store = Store(str(tmp_path))
    prompts = prepare(Prepare(), store, "toy", ToyWorld(num_images=1))
    with pytest.raises(InputError, match=r"needs the clean view and two noise steps; the views there are: none \(jobs"):
        ladder(LadderPage(), store, model, prompts)


def test_texts_on_the_page_stay_texts():
    hostile = "<script>alert(1)</script>"
    rungs = [Rung(step=None, png=b"", text=hostile), Rung(step=5, png=b"", text="x")]
    one = PromptLadder(prompt_id=hostile, question=hostile, rungs=rungs)
    html = render(LadderContent(title=hostile, summary=[hostile], ladders=[one]))
    assert one.flips_at == 5
    assert "<script" not in html
