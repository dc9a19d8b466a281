"""Responses and pairs with texts that a test chooses, made in this process, without Ray and without a model."""

from collections import Counter
from collections.abc import Mapping

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.records import RESPONSE_SCHEMA, Response, table
from seva_ray.core.storage import read_table, write_table
from seva_ray.engines.config import Generate
from seva_ray.pairs.verdicts import VERDICTS
from seva_ray.stages.generate import finish_responses, open_responses
from seva_ray.stages.pair import ANY, Pair, Sides, open_pairs, pair_shard
from seva_ray.stages.prepare import shards_of
from seva_ray.vlm.models import Model


def ids_of(prompts: Artifact, column: str = "prompt_id") -> list[str]:
    return [name for shard in shards_of(prompts) for name in read_table(prompts.path(shard))[column].to_pylist()]


def made_up_responses(
    store: Store, model: Model, prompts: Artifact, view: str, texts: Mapping[str, str], system: str = ""
) -> Artifact:
    """The responses of a view, with these texts by prompt_id. A token is a byte."""
    artifact = open_responses(Generate(system=system), store, model, prompts, view).begin()
    for shard in shards_of(prompts):
        names = read_table(prompts.path(shard))["prompt_id"].to_pylist()
        rows = [
            Response(prompt_id=name, text=texts[name], token_ids=list(texts[name].encode()), finish_reason="stop")
            for name in names
        ]
        write_table(artifact.path(shard), table(rows, RESPONSE_SCHEMA))
    return finish_responses(prompts, artifact)


def made_up_pairs(store: Store, prompts: Artifact, chosen: Artifact, rejected: Artifact) -> Artifact:
    """The pairs of these responses."""
    view = rejected.name.rsplit("/", 1)[-1]
    sides = Sides(prompts=prompts, chosen=chosen, rejected={view: rejected})
    artifact = open_pairs(Pair(), store, prompts, chosen, [rejected]).begin()
    verdicts = Counter(dict.fromkeys(VERDICTS, 0))
    for shard in shards_of(prompts):
        verdicts.update(pair_shard(Pair(), sides, artifact, {}, shard)[0][ANY])
    counts = {"verdicts": dict(verdicts), "views": {view: dict(verdicts)}}
    return artifact.finish({"num_prompts": prompts.counts["num_prompts"], **counts})
