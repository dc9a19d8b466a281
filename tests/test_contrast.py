"""Chosen answers by contrast: candidates, their log-probabilities against transformers', and the best of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import full
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import ConfigError
from seva_ray.core.fingerprints import identity
from seva_ray.core.records import FIRST_LOGPS, RESPONSE_SCHEMA, Response, table
from seva_ray.core.shards import shard_name
from seva_ray.core.storage import read_table, write_table
from seva_ray.engines import Decoding, TransformersEngine
from seva_ray.engines.config import Generate
from seva_ray.engines.encoded import encode, encoded_of
from seva_ray.engines.units import answer
from seva_ray.pairs.files import origin_of
from seva_ray.sources import ToyWorld
from seva_ray.stages.contrast import SCORES, Contrast, Contraster, ContrastWork, best_of, num_changed, with_scores
from seva_ray.stages.generate import finish_responses, open_responses, units_to_do
from seva_ray.stages.import_pairs import response
from seva_ray.stages.pair import Pair, open_pairs
from seva_ray.stages.prepare import Prepare, prepare, shards_of
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.models import model_at
from seva_ray.vlm.views import Viewer
from tests.made_up import ids_of, made_up_pairs, made_up_responses

CONFIG = Contrast(short_answers=("yes", "no"), batch_size=3, candidates=("sampled-1",))


@pytest.fixture(scope="module")
def made(toy_model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Artifact, ContrastWork, Contraster]:
    """Chosen answers of a random model. Every second own answer is `yes`, and the others are sentences; every third
    answer to the noised image differs."""
    store, model = Store(str(tmp_path_factory.mktemp("runs"))), model_at(toy_model)
    prompts = prepare(Prepare(shard_size=16), store, "toy", ToyWorld(num_images=3))
    names = ids_of(prompts)
    texts = {
        "clean": {name: "yes" if number % 2 else "a red square" for number, name in enumerate(names)},
        "diffusion-800": {name: "a blue circle" if number % 3 else "yes" for number, name in enumerate(names)},
        "sampled-1": dict.fromkeys(names, "a green square"),
    }
    answers = {view: made_up_responses(store, model, prompts, view, of_view) for view, of_view in texts.items()}
    answers = {view: with_tokens(item, prompts, toy_model) for view, item in answers.items()}
    artifact = store.open("responses/toy/toy/contrast-1-diffusion-800", config={}, inputs=[prompts])
    work = ContrastWork(config=CONFIG, model=model, prompts=prompts, answers=answers, artifact=artifact, seed=0)
    worker = Contraster(work)
    assert sum(worker.commit(shard) for shard in shards_of(prompts)) == len(names)
    return store, prompts, work, worker


def with_tokens(responses: Artifact, prompts: Artifact, directory: str) -> Artifact:
    """The same texts with the model's tokens."""
    tokenizer = Encoder(directory).tokenizer
    for shard in shards_of(prompts):
        rows = read_table(responses.path(shard)).to_pylist()
        answers = [response(tokenizer, row["prompt_id"], row["text"], None) for row in rows]
        write_table(responses.path(shard), table(answers, RESPONSE_SCHEMA))
    return responses


def rows_in(work: ContrastWork, *parts: str) -> list[dict]:
    shards = shards_of(work.prompts)
    return [row for shard in shards for row in read_table(work.artifact.path(*parts, shard)).to_pylist()]


def test_each_prompt_has_the_candidate_with_the_highest_contrast(made):
    _, prompts, work, _ = made
    chosen, scores = rows_in(work), rows_in(work, "scores")
    assert [row["prompt_id"] for row in chosen] == ids_of(prompts)
    assert set(SCORES.names) == set(scores[0])
    for number, row in enumerate(chosen):
        of_row = [score for score in scores if score["prompt_id"] == row["prompt_id"]]
        expected = ["yes" if number % 2 else "a red square", "a blue circle" if number % 3 else "yes", "a green square"]
        expected += ["yes", "no"] if number % 2 else []
        assert [score["text"] for score in of_row] == list(dict.fromkeys(expected))
        values = [2 * score["clean_logp"] - score["view_logp"] for score in of_row]
        assert of_row[int(np.argmax(values))]["text"] == row["text"]
        assert [score["is_best"] for score in of_row].index(True) == int(np.argmax(values))
    assert len({row["text"] for row in chosen}) > 1


def test_the_log_probabilities_are_those_of_transformers_on_both_images(made, toy_model):
    """One row at a time, without our layout: the processor's prompt and the answer, through the model itself."""
    import torch
    from transformers import AutoModelForImageTextToText

    _, prompts, work, worker = made
    model = AutoModelForImageTextToText.from_pretrained(toy_model, torch_dtype=torch.float32).eval()
    tokenizer, scores = Encoder(toy_model).tokenizer, rows_in(work, "scores")
    for row in read_table(prompts.path(shard_name(0))).to_pylist()[:2]:
        for view, column in (("clean", "clean_logp"), ("diffusion-800", "view_logp")):
            asked = super(type(worker.viewer), worker.viewer).row(row, view)
            for score in (item for item in scores if item["prompt_id"] == row["prompt_id"]):
                answer = [*tokenizer(score["text"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
                ids = torch.tensor([[*asked.ids, *answer]])
                pixels = {name: torch.from_numpy(values) for name, values in asked.features.items()}
                with torch.no_grad():
                    logps = model(input_ids=ids, **pixels).logits.log_softmax(-1)
                places = range(len(asked.ids) - 1, ids.shape[1] - 1)
                expected = sum(float(logps[0, place, ids[0, place + 1]]) for place in places)
                assert score[column] == pytest.approx(expected, abs=2e-4)


def test_of_one_token_it_is_the_choice_of_contrastive_decoding():
    clean, view = np.log([0.6, 0.4]), np.log([0.9, 0.1])
    assert best_of(list(zip(clean, view, strict=True)), 1.0) == 1
    assert best_of(list(zip(clean, view, strict=True)), 0.01) == 0
    assert best_of([], 1.0) == 0
    assert best_of([(-1.0, -1.0), (-1.0, -1.0)], 1.0) == 0


def test_a_prompt_that_failed_keeps_its_error_and_one_candidate_is_not_scored(made):
    _, _, _, worker = made
    own = Response(prompt_id="a", text="a red square", token_ids=[1], finish_reason="stop")
    failed = Response(prompt_id="a", error="no image")
    assert worker.candidates([own, failed, own]) == [own]
    short = worker.candidates([replace(own, text="no"), own])
    assert [answer.text for answer in short] == ["no", "a red square", "yes"]


def test_long_answers_are_compared_whole_where_short_ones_are_compared_by_their_first_tokens(made):
    _, _, work, _ = made
    worker = Contraster(replace(work, config=replace(CONFIG, first_token=True)))
    own = Response(prompt_id="a", text="a red square", token_ids=[1, 2], finish_reason="stop")
    other = replace(own, text="a blue circle", token_ids=[3])
    assert worker.candidates([own, other]) == [own, other]
    assert not worker.by_first_token(own)
    assert [answer.text for answer in worker.candidates([replace(own, text="no"), other])] == ["no", "yes"]


def test_the_pairs_are_named_after_both_sides_and_reject_the_models_own_answer(made):
    store, prompts, work, _ = made
    clean = work.answers["clean"]
    chosen = finish_responses(prompts, work.artifact.begin())
    pairs = open_pairs(Pair(), store, prompts, chosen, [clean])
    assert pairs.name == "pairs/toy/toy/contrast-1-diffusion-800-vs-clean"
    assert origin_of(pairs) == "contrast"
    kept = made_up_pairs(store, prompts, chosen, clean).counts["verdicts"]["kept"]
    assert kept == num_changed(prompts, chosen, clean) > 0


def test_a_job_asks_for_the_views_that_contrast_needs(tmp_path: Path):
    job = full.Full(name="a", model="toy", source=ToyWorld(), views=("clean",), chosen="contrast", contrast=CONFIG)
    assert job.clean() == ("clean", "diffusion-800", "sampled-1")
    assert CONFIG.label == "contrast-1-diffusion-800"
    with pytest.raises(ConfigError, match="view clean: the rejected view must be an augmented one"):
        replace(job, chosen="clean")
    with pytest.raises(ConfigError, match=r"contrast\.view clean: must be an augmented one"):
        Contrast(view="clean")


def scored_by_engine(work: ContrastWork, config: Contrast, with_column: bool) -> tuple[ContrastWork, Contraster]:
    """The same prompts, answered in both views by an engine that scores short answers. Every second own answer is then
    made `yes`. `with_column`: whether the files keep the scores."""
    store = Store(f"{work.artifact.uri.partition('/responses/')[0]}-{'with' if with_column else 'without'}-scores")
    prompts, model = work.prompts, work.model
    generate, shard = Generate(engine=TransformersEngine(), decoding=Decoding(max_new_tokens=2)), shard_name(0)
    viewer = Viewer(
        encoder=Encoder(model.directory, generate.system),
        image_root=prompts.counts["image_root"],
        max_pixels=generate.max_image_pixels,
        seed=generate.seed,
    )
    engine, answers = generate.engine.load(model.directory, generate.decoding), {}
    for view in config.views:
        responses = open_responses(generate, store, model, prompts, view)
        units = units_to_do(with_scores(generate, config), model, prompts, view, responses)[0]
        (encoded,) = encoded_of(*encode([units.of_shard(0)], viewer))
        rows = answer(encoded, engine)
        stored = read_table(responses.path(shard))["first_logps"].to_pylist()
        assert [[item["logp"] for item in of_row] for of_row in stored] == [
            [np.float32(item["logp"]) for item in row.first_logps] for row in rows
        ]
        assert all([item["text"] for item in of_row] == ["yes", "no"] for of_row in stored)
        token = [viewer.encoder.first_token("yes")]
        rows = [replace(row, text="yes", token_ids=token) if number % 2 else row for number, row in enumerate(rows)]
        schema = RESPONSE_SCHEMA.append(FIRST_LOGPS) if with_column else RESPONSE_SCHEMA
        write_table(responses.path(shard), table(rows, schema))
        answers[view] = responses
    artifact = store.open("responses/toy/toy/chosen", config={}, inputs=[prompts])
    other = replace(work, config=config, answers=answers, artifact=artifact)
    worker = Contraster(other)
    worker.commit(shard)
    return other, worker


def test_short_answers_that_the_engine_has_scored_need_no_model_and_are_chosen_as_by_the_model(made):
    _, _, work, _ = made
    config = Contrast(short_answers=("yes", "no"), only_short=True, first_token=True)
    assert config.views == ("clean", "diffusion-800")
    found = {}
    for with_column in (True, False):
        other, worker = scored_by_engine(work, config, with_column)
        assert ("model" in vars(worker)) is not with_column
        shard = shard_name(0)
        found[with_column] = [read_table(other.artifact.path(*parts, shard)).to_pylist() for parts in ((), ("scores",))]
    (chosen, scores), (expected, by_model) = found[True], found[False]
    assert [row["text"] for row in chosen] == [row["text"] for row in expected]
    assert {row["text"] for row in chosen[1::2]} <= {"yes", "no"}
    assert len(scores) == 2 * len(chosen[1::2])
    for one, other in zip(scores, by_model, strict=True):
        assert (one["prompt_id"], one["text"], one["is_best"]) == (other["prompt_id"], other["text"], other["is_best"])
        assert one["clean_logp"] == pytest.approx(other["clean_logp"], abs=2e-5)
        assert one["view_logp"] == pytest.approx(other["view_logp"], abs=2e-5)
        assert one["clean_logp"] != one["view_logp"]


def test_a_job_lets_its_engines_score_what_first_token_reads():
    first = Contrast(first_token=True, short_answers=("yes", "no"))
    job = full.Full(name="a", model="toy", source=ToyWorld(), views=("moco",), method="contrast", contrast=first)
    assert job.clean() == ("clean", "diffusion-800")
    assert full.with_method(job).generate.scored_answers == ("yes", "no")
    usual = replace(job, contrast=replace(first, first_token=False))
    assert usual.clean() == ("clean",)
    assert full.with_method(usual).generate == usual.generate
    assert identity(Generate(scored_answers=("yes", "no"))) == identity(Generate()), "it changes no answer"
    assert identity(first) != identity(replace(first, first_token=False))
    assert first.label == "contrast-1-diffusion-800-first"
    with pytest.raises(ConfigError, match=r"contrast\.first_token: needs at least two contrast\.short_answers"):
        replace(first, short_answers=("yes",))
