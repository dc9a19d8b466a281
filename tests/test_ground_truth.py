"""The data set's own answers as chosen answers: DPO against ground truth, and fine-tuning on it."""

from dataclasses import replace
from pathlib import Path

import pytest

from full import PRESETS
from seva_ray.core.artifacts import Store
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.engines.config import Generate
from seva_ray.pairs.files import origin_of
from seva_ray.pairs.verdicts import verdict_of
from seva_ray.sources import Folder, ToyWorld
from seva_ray.stages.generate import read_responses
from seva_ray.stages.ground_truth import NO_ANSWER, ground_truth
from seva_ray.stages.pair import Pair, open_pairs
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.models import model_at
from tests.answered import responses

SYSTEM = "Answer."


def test_the_answers_of_the_data_set_are_responses_with_the_tokens_of_the_model(tmp_path: Path, toy_model: str):
    store, model, source = Store(str(tmp_path / "runs")), model_at(toy_model), ToyWorld(num_images=4)
    prompts = prepare(Prepare(shard_size=8), store, "toy", source)
    given = Generate(system=SYSTEM, image_options='{"size": 32}')
    artifact = ground_truth(given, store, prompts, model, source)
    assert artifact.name == f"responses/{model.name}/toy/ground-truth"
    known, tokenizer = source.answers(), Encoder(toy_model).tokenizer
    rows = list(read_responses(prompts, artifact))
    assert {row.prompt_id: row.text for row in rows if row.error is None} == known
    assert len(rows) == prompts.counts["num_prompts"] > len(known)
    for row in rows:
        if row.error is None:
            assert tokenizer.decode(row.token_ids, skip_special_tokens=True) == known[row.prompt_id]
            assert row.token_ids[-1] == tokenizer.eos_token_id
        else:
            assert row.error == NO_ANSWER, "a description has no answer that is the only right one"
    # What training reads before an answer is what the model reads before its own.
    about = artifact.recipe["config"]
    assert (about["system"], about["max_image_pixels"]) == (SYSTEM, given.max_image_pixels)
    assert about["image_options"] == {"size": 32}
    assert ground_truth(given, store, prompts, model, source).finished == artifact.finished


def test_pairs_with_them_have_a_name_of_their_own_beside_those_of_seva(tmp_path: Path, toy_model: str):
    store, model, source = Store(str(tmp_path / "runs")), model_at(toy_model), ToyWorld(num_images=2)
    prompts = prepare(Prepare(), store, "toy", source)
    truth = ground_truth(Generate(system=""), store, prompts, model, source)
    said = dict.fromkeys(source.answers(), "no idea")
    clean, seen = (responses(store, prompts, model.name, said, view) for view in ("clean", "diffusion-500"))
    against = open_pairs(Pair(), store, prompts, truth, [seen])
    assert against.name == f"pairs/{model.name}/toy/ground-truth-vs-diffusion-500"
    assert origin_of(against) == "ground truth"
    own = open_pairs(Pair(name="short"), store, prompts, clean, [seen])
    assert (own.name, origin_of(own)) == (f"pairs/{model.name}/toy/diffusion-500+short", "self")
    rows = zip(*(read_responses(prompts, artifact) for artifact in (truth, seen)), strict=True)
    verdicts = [verdict_of(one, other, True)[0] for one, other in rows]
    assert set(verdicts) == {"failed"}, "these answers have no token ids"


def test_a_data_set_without_any_answer_is_an_error_and_leaves_nothing(tmp_path: Path, toy_model: str):
    class Silent(ToyWorld):
        def answers(self) -> dict[str, str]:
            return {"of another prompt": "yes"}

    store, model = Store(str(tmp_path / "runs")), model_at(toy_model)
    prompts = prepare(Prepare(), store, "toy", ToyWorld(num_images=1))
    with pytest.raises(InputError, match=f"prompts/toy: {NO_ANSWER}, nor to any other"):
        ground_truth(Generate(), store, prompts, model, Silent())
    assert not store.names(f"responses/{model.name}/toy")


def test_a_job_says_before_anything_runs_whether_its_source_has_answers_and_may_reject_the_clean_one(tmp_path: Path):
    with pytest.raises(ConfigError, match="chosen ground-truth: Folder reads no answers of a data set"):
        replace(PRESETS["toy"], chosen="ground-truth", source=Folder(path=str(tmp_path)))
    with pytest.raises(ConfigError, match="view clean: the rejected view must be an augmented one"):
        replace(PRESETS["toy"], views=("clean",))
    job = replace(PRESETS["toy"], views=("clean",), chosen="ground-truth", controls=())
    assert job.clean() == ()
    assert replace(job, controls=("control-repeat",)).clean() == ("clean",)
