"""A finished run of jobs/full.py, made in a second without Ray and engines: its answers and its training are made up,
everything else is the stages' own."""

import json
import shutil
from dataclasses import asdict

from full import Full
from presets import prompts_of
from seva_ray.augmentations import CLEAN
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.records import RESPONSE_SCHEMA, Response, table
from seva_ray.core.shards import shard_name
from seva_ray.core.storage import read_table, write_bytes, write_table
from seva_ray.engines.config import Generate
from seva_ray.stages.base_model import open_toy, recipe_of
from seva_ray.stages.evaluate import evaluate, prepare_benchmarks
from seva_ray.stages.generate import finish_responses, open_responses
from seva_ray.stages.pair import ANY, Sides, open_pairs, pair_shard
from seva_ray.stages.prepare import prepare
from seva_ray.stages.training.training import Training
from seva_ray.vlm.models import Model, model_of


def finish(config: Full, model_directory: str) -> Store:
    """Make every artifact of the run but the page. Its prompts must fit into one shard. The model is a toy base."""
    store = config.store()
    base = open_toy(store, recipe_of(config.toy, config.model)).begin()
    shutil.copytree(model_directory, base.path("model"))
    start = model_of(base.finish({}))
    prompts = prepare(config.prepare, store, prompts_of(config.prompts, config.source, config.name), config.source)
    benchmarks = config.benchmarks.chosen()
    tests = prepare_benchmarks(config.prepare, store, benchmarks)
    first = start
    for test in tests:
        answered(config.generate, store, first, test, CLEAN)
    for name in config.names():
        controls = config.controls if start is first else ()
        chosen, *rejected = (
            answered(config.generate, store, start, prompts, view) for view in (CLEAN, *config.views, *controls)
        )
        pairs, *_ = (
            paired(config, store, prompts, chosen, {view: of_view})
            for view, of_view in zip((*config.views, *controls), rejected, strict=True)
        )
        policy = Training(config=config.train, name=name, model=start, pairs=pairs).open(store).begin()
        shutil.copytree(model_directory, policy.path("model"))
        log = [{"step": 1, "loss": 0.69, "rewards/margins": 0.0, "rewards/accuracies": 0.5}]
        write_bytes(policy.path("log.json"), json.dumps(log).encode())
        policy = policy.finish({"num_pairs": pairs.counts["verdicts"]["kept"], "num_steps": 1, "start": asdict(start)})
        start = model_of(policy)
        for test in tests:
            answered(config.generate, store, start, test, CLEAN)
        evaluate(config.evaluate, config.generate, store, benchmarks, tests, [(first, start)])
    return store


def answered(config: Generate, store: Store, model: Model, prompts: Artifact, view: str) -> Artifact:
    artifact = open_responses(config, store, model, prompts, view).begin()
    ids = read_table(prompts.path(shard_name(0)), columns=["prompt_id"])["prompt_id"].to_pylist()
    text = f"{model.name} on {view}"
    rows = [Response(prompt_id=name, text=text, token_ids=[1], finish_reason="stop") for name in ids]
    write_table(artifact.path(shard_name(0)), table(rows, RESPONSE_SCHEMA))
    return finish_responses(prompts, artifact)


def paired(config: Full, store: Store, prompts: Artifact, chosen: Artifact, rejected: dict[str, Artifact]) -> Artifact:
    artifact = open_pairs(config.pair, store, prompts, chosen, list(rejected.values())).begin()
    sides = Sides(prompts=prompts, chosen=chosen, rejected=rejected)
    counts, _ = pair_shard(config.pair, sides, artifact, {}, shard_name(0))
    of_views = {view: dict(counts[view]) for view in rejected}
    num_prompts = prompts.counts["num_prompts"]
    return artifact.finish({"num_prompts": num_prompts, "verdicts": dict(counts[ANY]), "views": of_views})
