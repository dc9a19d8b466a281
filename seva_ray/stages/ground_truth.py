"""ground truth: the data set's own answers -> the artifact `responses/<model>/<prompts>/ground-truth`.

They stand in place of the chosen answers, for the methods that SeVa is compared with: DPO against ground truth, and
fine-tuning on it. They have the token ids of the model that is to be trained. Source: SeVa (arXiv 2404.10501), table 3.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import InputError
from seva_ray.core.node_cache import local_directory
from seva_ray.core.records import RESPONSE_SCHEMA, table
from seva_ray.core.storage import read_table, write_table
from seva_ray.engines.config import Generate
from seva_ray.pairs.files import GROUND_TRUTH
from seva_ray.runtime.heartbeat import waiting
from seva_ray.runtime.progress import say
from seva_ray.runtime.renewal import made_once
from seva_ray.stages.generate import finish_responses, responses_name
from seva_ray.stages.import_pairs import response
from seva_ray.stages.prepare import shards_of
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.image_options import options_of
from seva_ray.vlm.models import Model

NO_ANSWER = "the data set has no answer to this question"


@runtime_checkable
class HasAnswers(Protocol):
    """A source whose data set holds answers."""

    def answers(self) -> Mapping[str, str]:
        """The data set's own answers, by prompt_id. A prompt may be missing."""
        ...


def ground_truth(config: Generate, store: Store, prompts: Artifact, model: Model, source: HasAnswers) -> Artifact:
    """The answers of `source` to `prompts`, as responses of the model. Training reads the same text before them as
    before the model's own answers. A prompt without an answer gets an error.

    Raises: InputError if the data set has no answer to any of the prompts.
    """
    recipe = {
        "model": model.fingerprint,
        "system": config.system,
        "max_image_pixels": config.max_image_pixels,
        "imported": GROUND_TRUTH,
    }
    if config.image_options:
        recipe["image_options"] = options_of(config.image_options)
    name = responses_name(model, prompts, GROUND_TRUTH)

    def opened() -> Artifact:
        return store.open(name, config=recipe, inputs=[prompts])

    def made(artifact: Artifact) -> Artifact:
        with waiting(f"{name}: reading the answers of the data set"):
            answers = source.answers()
            artifact = artifact.begin()
            num_found = write_answers(prompts, artifact, model, answers)
        if not num_found:
            artifact.discard()
            raise InputError(f"{prompts.name}: {NO_ANSWER}, nor to any other")
        say(f"ground truth: {num_found:,} of {prompts.counts['num_prompts']:,} prompts have an answer of the data set")
        return finish_responses(prompts, artifact)

    return made_once(store, opened, made)


def write_answers(prompts: Artifact, artifact: Artifact, model: Model, answers: Mapping[str, str]) -> int:
    """Write the answers, shard by shard. Return how many there are."""
    tokenizer, num_found = Encoder(local_directory(model.directory)).tokenizer, 0
    for shard in shards_of(prompts):
        rows = []
        for asked in read_table(prompts.path(shard), columns=["prompt_id", "error"]).to_pylist():
            text = answers.get(asked["prompt_id"], "").strip()
            error = asked["error"] or (None if text else NO_ANSWER)
            num_found += error is None
            rows.append(response(tokenizer, asked["prompt_id"], text, error))
        write_table(artifact.path(shard), table(rows, RESPONSE_SCHEMA))
    return num_found
