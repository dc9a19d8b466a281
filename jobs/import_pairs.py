"""Imports preference data made elsewhere -> the artifact `pairs/<model>/<name>/imported`, to train on.

    python jobs/import_pairs.py --name theirs --model path/to/llava-1.5-7b-hf --data.path ocrvqa_dpo_8k.json \
        --data.image-root ocr_vqa/images
    python jobs/train.py llava-7b --name theirs --pairs llava-1.5-7b-hf/theirs/imported --model path/to/llava-1.5-7b-hf

It reads the forms of TRL, LLaMA-Factory, ms-swift and the official SeVa JSON, in every file that source:hf reads.
"""

from dataclasses import dataclass, field

from presets import MODELS, USUAL, ModelJob
from seva_ray.runtime.cli import run
from seva_ray.runtime.cluster import cluster
from seva_ray.sources.preferences import Preferences
from seva_ray.stages.base_model import check_start, starting_model
from seva_ray.stages.import_pairs import Reading, import_pairs
from seva_ray.stages.pair import Pair
from seva_ray.stages.prepare import Prepare


@dataclass(frozen=True, kw_only=True)
class ImportJob(ModelJob):
    """Pairs from rows with a chosen and a rejected answer."""

    name: str
    """Names the prompt set of these rows."""
    model: str
    """The model that is to be trained on them, whose tokens the answers become: its directory, or `toy`."""
    data: Preferences
    """The rows."""
    reading: Reading = field(default_factory=Reading)
    pair: Pair = field(default_factory=Pair)
    prepare: Prepare = field(default_factory=Prepare)


def main(config: ImportJob) -> None:
    store = config.store()
    check_start(store, config.model, config.reading.image_options)
    with cluster():
        model = starting_model(store, config.model, config.toy)
        pairs = import_pairs(config.reading, config.pair, config.prepare, store, config.name, model, config.data)
    print(f"{pairs.name}: {pairs.counts['verdicts']['kept']:,} pairs", flush=True)


DATA = Preferences(path="pairs.json")
PRESETS = {
    **{
        name: ImportJob(name="imported", model=name, data=DATA, reading=Reading(system=""))
        for name in ("toy", "toy-qwen")
    },
    **{
        name: ImportJob(
            name="imported",
            model=of.model,
            data=DATA,
            reading=Reading(system=of.generate.system, image_options=of.generate.image_options),
        )
        for name, of in MODELS.items()
    },
}

if __name__ == "__main__":
    run(main, PRESETS, "Make pairs from preference data of elsewhere.", USUAL)
