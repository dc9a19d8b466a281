"""generate: prompts x view -> the artifact `responses/<model>/<prompts>/<view>`, one response per prompt.

The unit of work is (shard of prompts, view). Its response file is named after the shard and committed in one step. So
a retry or a second copy of the same task changes nothing, and a restart runs only the missing units.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from seva_ray.augmentations import CLEAN, CONTROLS, parse_view, temperature_of, undrawn
from seva_ray.augmentations.ladder import Ladder, plain_view, views_below
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.ownership import owned
from seva_ray.core.records import Response
from seva_ray.core.shards import read_each, shard_name
from seva_ray.core.storage import is_directory, is_local, read_table
from seva_ray.core.system_texts import SYSTEM_TEXTS
from seva_ray.core.verification import whole_shards
from seva_ray.engines.config import Generate
from seva_ray.engines.counts import Totals, read_counts
from seva_ray.engines.ladder import not_carried
from seva_ray.engines.units import UNITS_PER_DRIVER, Unit, Units, commit, failed_in, other_versions
from seva_ray.runtime import metrics
from seva_ray.runtime.actors import results_of, told
from seva_ray.runtime.cluster import join
from seva_ray.runtime.heartbeat import waiting
from seva_ray.runtime.progress import say
from seva_ray.runtime.renewal import to_be_made
from seva_ray.stages.engine_pool import run_units
from seva_ray.stages.image_check import sample_of_shards, try_images
from seva_ray.stages.part_drivers import Made, run_parts
from seva_ray.stages.prepare import own_system, shards_of
from seva_ray.stages.regenerate import images_name, is_regenerated, open_images, regenerate
from seva_ray.stages.unit_worker import encoder_of
from seva_ray.vlm.image_options import options_of
from seva_ray.vlm.models import Model, architecture

GenerationTask = tuple[Model, Artifact, str]
"""A model, the prompts that it answers, and the view in which it sees their images."""


def generate(config: Generate, store: Store, model: Model, work: Sequence[tuple[Artifact, str]]) -> list[Artifact]:
    """Returns one model's responses to each (prompts, view), in the order of `work`."""
    return generate_all(config, store, [(model, prompts, view) for prompts, view in work])


def generate_all(config: Generate, store: Store, work: Sequence[GenerationTask]) -> list[Artifact]:
    """The responses to each piece of work, in the order of `work`. A noise ladder (augmentations/ladder.py) is made
    step by step, because each step asks only what has not flipped before."""
    finished: dict[str, Artifact] = {}
    for tasks in steps_of(work):
        finished |= {artifact.name: artifact for artifact in generated(config, store, tasks)}
    return [finished[responses_name(*item)] for item in work]


def steps_of(work: Sequence[GenerationTask]) -> Iterator[list[GenerationTask]]:
    """The work in parts, each of which needs only the answers of the parts before. Without a ladder it is one part."""
    chains = [(model, prompts, [*views_below(view), view]) for model, prompts, view in work]
    for step in range(max((len(views) for *_, views in chains), default=0)):
        due = [(model, prompts, views[step]) for model, prompts, views in chains if step < len(views)]
        ladders = [(model, prompts, CLEAN) for model, prompts, views in chains if len(views) > 1] if not step else []
        yield due + ladders


def generated(config: Generate, store: Store, work: Sequence[GenerationTask]) -> Iterator[Artifact]:
    """Yield the responses to each piece of work, each once and as soon as they are complete.

    Models of one architecture share one pool of engines, which load the weights of one model after the other.
    """
    tasks = {responses_name(*item): item for item in work}
    for prompts, view in {(item.name, view): (item, view) for _, item, view in work if is_regenerated(view)}.values():
        regenerate(config, store, prompts, view)
    opened = (open_responses(config, store, *item) for item in tasks.values())
    with owned(store.root, [item.name for item in opened if config.retry_failed or not item.complete]):
        yield from generated_alone(config, store, list(tasks.values()))  # another job may have made some meanwhile


def generated_alone(config: Generate, store: Store, work: Sequence[GenerationTask]) -> Iterator[Artifact]:
    """The same as `generated`, while no other job makes any of these artifacts."""
    pools: dict[str, list[Units]] = {}
    begun: dict[str, Artifact] = {}
    num_missing: Counter[str] = Counter()
    tallies: dict[str, Totals] = {}
    for model, prompts, view in work:
        artifact = open_responses(config, store, model, prompts, view)
        if not artifact.complete:
            artifact = to_be_made(artifact)
        missing = units_to_do(config, model, prompts, view, artifact)
        if missing and Ladder.of(view) and not config.retry_failed:
            whole = open_responses(config, store, model, prompts, plain_view(view))
            missing = [] if whole.complete and take_from(whole, missing) else missing
        if missing and artifact.complete:
            artifact = artifact.reopened()
        if missing:
            pools.setdefault(architecture(model.directory), []).extend(missing)
            begun[artifact.uri], num_missing[artifact.uri] = artifact, sum(map(len, missing))
            tallies[artifact.uri] = tally_of(prompts, artifact, missing)
        else:
            yield metrics.reused(artifact) if artifact.complete else finish_responses(prompts, artifact)
    names = {model.directory: model.name for model, _, _ in work}
    try_images_of(config, [units for of_pool in pools.values() for units in of_pool])
    for of_pool in pools.values():
        of_models = dict.fromkeys(names[units.like.model_directory] for units in of_pool)
        say(f"generate with {', '.join(of_models)}: {sum(map(len, of_pool)):,} units to do")
        for uri, num_units, tally in made(config, of_pool):
            num_missing[uri] -= num_units
            tallies[uri].update(tally)
            if not num_missing[uri]:
                with waiting("generate: completing the responses"):
                    finished = finish_with(begun[uri], tallies[uri])
                yield finished


def made(config: Generate, missing: Sequence[Units]) -> Iterator[Made]:
    """What is committed of these units: by one driver or, of many units, by several."""
    if sum(map(len, missing)) > UNITS_PER_DRIVER:
        yield from run_parts(config, missing)
        return
    for unit, counts in run_units(config, [unit for units in missing for unit in units]):
        uri, _, name = unit.responses_uri.rpartition("/")
        tally = Totals()
        tally.add(name, counts)
        yield uri, 1, tally


def take_from(whole: Artifact, missing: Sequence[Units]) -> bool:
    """Make these units of a ladder's step from all prompts' answers at that step, which are there: no model runs."""
    for unit in chain.from_iterable(missing):
        rows = [Response(**row) for row in read_table(whole.path(unit.responses_uri.rpartition("/")[2])).to_pylist()]
        commit(unit, not_carried(rows, unit.below))
    return True


def try_images_of(config: Generate, missing: Sequence[Units]) -> None:
    """Open a sample of the images of each prompt set of these units. Raises: InputError if too few can be opened."""
    sets: dict[tuple[str, str | None], set[int]] = {}
    for units in missing:
        drawn = sample_of_shards(units.numbers)
        sets.setdefault((units.like.prompts_uri, units.like.image_root), set()).update(drawn)
    padded = bool(missing) and encoder_of(config, missing[0].like).crops
    for (uri, image_root), numbers in sets.items():
        of_set = [f"{uri}/{shard_name(number)}" for number in sorted(numbers)]
        given = (of_set, image_root, config.max_image_pixels, config.max_unreadable, padded)
        if image_root and is_local(image_root) and not is_directory(image_root):
            join()  # the nodes that encode images may have what the driver's machine lacks
            list(results_of(try_images_there, [given], "generate: trying to open some images"))
        else:
            try_images(*given)


@told()
def try_images_there(*given: Any) -> None:
    """The task of Ray that does the same as `try_images`."""
    try_images(*given)


def responses_name(model: Model, prompts: Artifact, view: str) -> str:
    return f"responses/{model.name}/{prompts.name.removeprefix('prompts/')}/{view}"


def open_responses(config: Generate, store: Store, model: Model, prompts: Artifact, view: str) -> Artifact:
    """The artifact of these responses. The clean view's recipe leaves out the seed, so that all seeds share it."""
    augmentation = parse_view(view)
    recipe = {
        "model": model.fingerprint,
        "engine": config.engine,
        "decoding": config.decoding,
        "system": SYSTEM_TEXTS.get(own_system(prompts), config.system),
        "max_image_pixels": config.max_image_pixels,
        "augmentation": augmentation and {"seed": config.seed, "augmentation": augmentation},
    }
    if config.image_options:
        recipe["image_options"] = options_of(config.image_options)
    if view in CONTROLS:
        recipe["control"] = view
    if undrawn(view) != view:
        recipe["draw"] = view
    if temperature_of(view) is not None:
        recipe["sampled"] = undrawn(view)
    inputs, made_from = [prompts], {model.name: model.contents}
    if ladder := Ladder.of(view):
        recipe["ladder"] = view
        inputs += [open_responses(config, store, model, prompts, other) for other in (CLEAN, ladder.below)]
    if is_regenerated(view):
        inputs.append(open_images(config, store, prompts, view))
    return store.open(responses_name(model, prompts, view), config=recipe, inputs=inputs, made_from=made_from)


def units_to_do(config: Generate, model: Model, prompts: Artifact, view: str, artifact: Artifact) -> list[Units]:
    """The units that are missing, and those of which some rows are to be tried again."""
    found = [] if artifact.complete else [missing_units(model, prompts, view, artifact)]
    if config.retry_failed:
        others = units_of(model, prompts, view, artifact, retry=True)
        others = others.only(~np.isin(others.numbers, [number for units in found for number in units.numbers]))
        found.append(others.only([bool(ids) for ids in read_each(failed_in, others)]))
    scored = config.scored_answers
    return [Units(replace(units.like, scored_answers=scored), units.numbers) for units in found if len(units)]


def missing_units(model: Model, prompts: Artifact, view: str, artifact: Artifact) -> Units:
    begun = artifact.begun and not artifact.stale
    done = whole_shards(artifact.uri, prompts.uri) - artifact.damaged.keys() if begun else set()
    of_artifact = units_of(model, prompts, view, artifact)
    if 0 < len(done) < len(of_artifact) and (changes := other_versions(artifact.path(min(done)))):
        say(
            f"generate: {artifact.name} was begun by other versions ({', '.join(changes)}), so its answers will be of "
            f"both; remove {artifact.uri} to make them all by one"
        )
    return of_artifact.only([shard_name(number) not in done for number in of_artifact.numbers])


def units_of(model: Model, prompts: Artifact, view: str, artifact: Artifact, retry: bool = False) -> Units:
    """All units of an artifact of responses."""
    claimed = json.dumps(
        {"name": artifact.name, "uri": artifact.uri, "recipe": artifact.recipe, "made_from": artifact.made_from}
    )
    images = artifact.uri.rpartition("responses/")[0] + images_name(prompts, view)
    ladder = Ladder.of(view)
    below = [artifact.uri.removesuffix(view) + other for other in (CLEAN, ladder.below)] if ladder else []
    like = Unit(
        model=model.name,
        model_directory=model.directory,
        prompts_uri=prompts.uri,
        responses_uri=artifact.uri,
        view=view,
        image_root=prompts.counts["image_root"],
        num_rows=rows_per_unit(prompts),
        artifact=claimed,
        below=tuple(below),
        images=images if is_regenerated(view) else "",
        retry=retry,
        system=artifact.recipe["config"]["system"],
        model_contents=f"{model.fingerprint} {model.contents}",
    )
    return Units(like, np.arange(prompts.counts["num_shards"], dtype=np.int32))


def rows_per_unit(prompts: Artifact) -> int:
    """The largest number of rows in one unit."""
    return min(prompts.counts["num_prompts"], prompts.recipe["config"]["prepare"]["shard_size"])


def finish_responses(prompts: Artifact, artifact: Artifact) -> Artifact:
    """Complete the artifact once all units are committed, and count how the responses ended."""
    return finish_with(artifact, tally_of(prompts, artifact, ()))


def tally_of(prompts: Artifact, artifact: Artifact, missing: Sequence[Units]) -> Totals:
    """How the responses ended in all units but the missing ones."""
    there = np.ones(prompts.counts["num_shards"], bool)
    for units in missing:
        there[units.numbers] = False
    names = [shard_name(number) for number in np.flatnonzero(there)]
    view, tally = artifact.name.rpartition("/")[2], Totals()
    for name, counts in zip(names, read_each(lambda name: read_counts(artifact.path(name), view), names), strict=True):
        tally.add(name, counts)
    return tally


def finish_with(artifact: Artifact, tally: Totals) -> Artifact:
    """Complete the artifact with these counts, and say why some responses failed."""
    view, counts, reasons = artifact.name.rpartition("/")[2], dict(tally.numbers), tally.reasons
    if Ladder.of(view):
        saved = counts["num_responses"] - counts["num_asked"]
        say(f"generate {view}: {counts['num_asked']:,} prompts were asked at the last step, {saved:,} passes saved")
    for line in reasons.lines():
        say(f"generate {artifact.name.removeprefix('responses/')}: {line}")
    return artifact.finish(counts | reasons.record())


def read_responses(prompts: Artifact, artifact: Artifact, columns: Sequence[str] | None = None) -> Iterator[Response]:
    """All responses, in the prompts' order, with all or some of their columns."""
    paths = [artifact.path(shard) for shard in shards_of(prompts)]
    for shard in read_each(lambda path: read_table(path, columns), paths):
        for row in shard.to_pylist():
            yield Response(**row)
