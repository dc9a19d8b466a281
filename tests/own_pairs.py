"""Pairs about images of one's own, made without a model and without Ray: what an export and an import are tried on."""

from pathlib import Path

from PIL import Image

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.records import RESPONSE_SCHEMA, Response, table
from seva_ray.core.shards import shard_name
from seva_ray.core.storage import write_table
from seva_ray.pairs.official import write_official
from seva_ray.sources import Folder
from seva_ray.stages.pair import ANY, Pair, Sides, open_pairs, pair_shard
from seva_ray.stages.prepare import Prepare, prepare

NUM_IMAGES = 18
COLOURS = [(10 * number, 255 - 10 * number, 100) for number in range(NUM_IMAGES)]
VIEWS = ("moco", "diffusion-500")


def own_pairs(root: Path) -> tuple[Store, Artifact]:
    """18 images in as many shards; the first prompt is equal in all views, the last is kept in one view of two."""
    (root / "photos").mkdir(parents=True)
    for number, colour in enumerate(COLOURS):
        image = Image.new("RGB", (40, 28), colour)
        image.save(root / "photos" / f"{number:02d}.{'png' if number % 2 else 'jpg'}", quality=95)
    store = Store(str(root / "runs"))
    prompts = prepare(
        Prepare(shard_size=1), store, "mine", Folder(path=str(root / "photos"), questions=("what color is the ring ?",))
    )
    names = [f"{number:02d}.{'png' if number % 2 else 'jpg'}-0" for number in range(NUM_IMAGES)]
    chosen = {name: f"yes there is {number}" for number, name in enumerate(names)}
    answers = {
        "moco": {name: chosen[name] if number == 0 else f"no {number}" for number, name in enumerate(names)},
        "diffusion-500": {
            name: chosen[name] if number in (0, NUM_IMAGES - 1) else f"two {number}\nlines"
            for number, name in enumerate(names)
        },
    }
    clean = answered(store, prompts, chosen, "clean")
    rejected = {view: answered(store, prompts, answers[view], view) for view in VIEWS}
    artifact = open_pairs(Pair(), store, prompts, clean, list(rejected.values())).begin()
    sides = Sides(prompts=prompts, chosen=clean, rejected=rejected)
    counts: dict[str, dict[str, int]] = {}
    for shard in range(NUM_IMAGES):
        for view, found in pair_shard(Pair(), sides, artifact, {}, shard_name(shard))[0].items():
            of_view = counts.setdefault(view, {})
            for verdict, number in found.items():
                of_view[verdict] = of_view.get(verdict, 0) + number
    write_official(artifact)
    kept = {"num_prompts": NUM_IMAGES, "verdicts": counts.pop(ANY), "views": counts}
    return store, artifact.finish(kept)


def answered(store: Store, prompts: Artifact, answers: dict[str, str], view: str) -> Artifact:
    artifact = store.open(f"responses/some-model/mine/{view}", config={"view": view}, inputs=[prompts])
    for number, (name, text) in enumerate(answers.items()):
        row = Response(prompt_id=name, text=text, token_ids=[number + 5, 2], finish_reason="stop")
        write_table(artifact.path(shard_name(number)), table([row], RESPONSE_SCHEMA))
    return artifact.finish({})
