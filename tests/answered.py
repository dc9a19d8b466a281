"""Responses without a model: an artifact as the generate stage makes it, from texts."""

from collections.abc import Mapping

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.records import RESPONSE_SCHEMA, Response, table
from seva_ray.core.storage import read_table, write_table
from seva_ray.stages.prepare import shards_of


def responses(store: Store, prompts: Artifact, model: str, answers: Mapping[str, str], view: str = "clean") -> Artifact:
    """The responses to every prompt. A prompt that is not in `answers` has an error."""
    name = prompts.name.removeprefix("prompts/")
    artifact = store.open(f"responses/{model}/{name}/{view}", config=answers, inputs=[prompts])
    for shard in shards_of(prompts):
        write_answers(prompts, artifact, shard, answers)
    return artifact.finish({})


def write_answers(prompts: Artifact, responses: Artifact, shard: str, answers: Mapping[str, str] = {}) -> None:
    """Write the responses to the prompts of one shard."""
    rows = [
        Response(prompt_id=key, text=answers[key], finish_reason="stop")
        if key in answers
        else Response(prompt_id=key, error="no image")
        for key in read_table(prompts.path(shard))["prompt_id"].to_pylist()
    ]
    write_table(responses.path(shard), table(rows, RESPONSE_SCHEMA))
