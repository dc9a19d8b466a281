"""Opens one artifact of every kind, as the presets and their stages do: what must open today must open for ever."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import full
import sweep
from seva_ray.augmentations import AUGMENTATIONS, CLEAN, CONTROLS, sampled
from seva_ray.benchmarks import (
    AmberDiscriminative,
    AmberGenerative,
    Chair,
    Gqa,
    MMBench,
    Mme,
    Pope,
    ScienceQa,
    SeedBench,
    TextVqa,
    ToyBenchmark,
)  # fmt: skip
from seva_ray.benchmarks.judged import Competition, LlavaBench, MmHal, MmVet, Shr
from seva_ray.benchmarks.judged.endpoint import Judge
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.dpo.config import Loss, Train
from seva_ray.dpo.policy import Lora
from seva_ray.engines import Decoding, FakeEngine, TransformersEngine
from seva_ray.engines.config import Generate
from seva_ray.pairs.filters import Filters
from seva_ray.scoring.lmms_eval import Harness
from seva_ray.sources import Folder, LlavaJson, Table, ToyWorld
from seva_ray.stages.base_model import open_toy
from seva_ray.stages.consistency import Consistency, PromptSample
from seva_ray.stages.generate import open_responses
from seva_ray.stages.judge import judge_recipe
from seva_ray.stages.pair import Pair, open_pairs
from seva_ray.stages.prepare import Prepare
from seva_ray.stages.score_files import Evaluate
from seva_ray.stages.training.reference import open_logps
from seva_ray.stages.training.training import Training
from seva_ray.toy.recipe import ToyRecipe
from seva_ray.vlm.models import Model

FIRST_PRESETS = ((full, ("toy", "llava-7b", "llava-13b")), (sweep, ("toy", "llava-7b")))
"""Those of the first version: only what it made can be compared with what it made."""
PRESETS = {f"{job.__name__}-{name}": job.PRESETS[name] for job, names in FIRST_PRESETS for name in names}
MODEL = Model(name="model", directory="/data/model", fingerprint="0123456789abcdef")


def label(name: str) -> str:
    """A view of every augmentation."""
    return "diffusion-500" if name == "diffusion" else name


def without_files(kind: type, **values: Any) -> Any:
    """A benchmark whose published files are not here."""
    benchmark: Any = object.__new__(kind)
    for item in fields(kind):
        object.__setattr__(benchmark, item.name, values.get(item.name, item.default))
    return benchmark


def benchmarks() -> list[Any]:
    both = {"path": "/data/file", "image_root": "/data/images"}
    found = [
        without_files(kind, **both) for kind in (Pope, SeedBench, ScienceQa, Gqa, AmberGenerative, AmberDiscriminative)
    ]
    found += [without_files(Chair, synonyms_path="/data/synonyms.txt", num_images=500, **both)]
    found += [without_files(TextVqa, ocr_path=ocr, **both) for ocr in ("", "/data/ocr.jsonl")]
    found += [without_files(kind, path="/data/file") for kind in (MMBench, Mme)]
    found += [without_files(kind, **both) for kind in (MmVet, LlavaBench, Competition, MmHal, Shr)]
    return [*found, ToyBenchmark(num_images=300, camera="clean"), ToyBenchmark(num_images=300)]


def opened(store: Store) -> Iterator[Artifact]:
    """Every kind of artifact, opened as its stage does."""
    for name, preset in PRESETS.items():
        yield from run(store, name, preset)
    prompts = of_source(store, "prompts/table", Table(path="/data/rows.parquet", image_root="/data/images"))
    yield prompts
    yield of_source(store, "prompts/folder", Folder(path="/data/images"))
    yield of_source(store, "prompts/llava", LlavaJson(path="/data/mix.json", image_root="/data/images", seed=3))
    yield of_source(store, "prompts/toy", ToyWorld(num_images=7))
    yield of_source(
        store, "prompts/part", PromptSample(whole=prompts.fingerprint, num_prompts=9, seed=0, artifact=prompts)
    )
    chosen = open_responses(Generate(), store, MODEL, prompts, CLEAN)
    views = [*map(label, AUGMENTATIONS), "rand_flip+diffusion-300", *CONTROLS, "diffusion-300=2", sampled(0.7, 1)]
    rejected = {view: open_responses(Generate(), store, MODEL, prompts, view) for view in views}
    yield from (chosen, *rejected.values())
    engines: tuple[Any, ...] = (TransformersEngine(), FakeEngine())
    for number, engine in enumerate(engines):
        model = Model(name=f"model{number}", directory="/data/model", fingerprint="0123456789abcdef")
        config = Generate(engine=engine, decoding=Decoding(temperature=0.5, seed=3), system="", seed=2)
        yield open_responses(config, store, model, prompts, "moco")
    filtered = Pair(
        filters=Filters(repetition=2, length_ratio=(0.5, 2.0)), max_per_source={"table": 9}, name="filtered"
    )
    pairs = open_pairs(Pair(), store, prompts, chosen, [rejected["moco"]])
    yield pairs
    yield open_pairs(filtered, store, prompts, chosen, [rejected["moco"], rejected["diffusion-500"]])
    for name, training in TRAININGS.items():
        yield open_logps(training, store, MODEL, pairs)
        yield Training(config=training, name=name, model=MODEL, pairs=pairs).open(store)
    yield open_toy(store, ToyRecipe(seed=2))
    for benchmark in benchmarks():
        yield from scored(store, benchmark)


TRAININGS = {
    "usual": Train(),
    "full": Train(full=True, dtype="float32", num_pairs=9, swap_sides=True, lora=Lora(rank=4, alpha=8)),
    "rpo": Train(loss=Loss(name="rpo", sft_weight=0.5), beta=0.2),
}


def of_source(store: Store, name: str, source: Any) -> Artifact:
    return store.open(name, config={"prepare": Prepare(), "source": source, "contents": None})


def run(store: Store, name: str, preset: Any) -> Iterator[Artifact]:
    """What a preset makes, down to the policy."""
    places = {"path": "/data/mix.json", "image_root": "/data/images"} if hasattr(preset.source, "path") else {}
    source = replace(preset.source, **places)
    prompts = store.open(f"prompts/{name}", config={"prepare": preset.prepare, "source": source, "contents": None})
    model = Model(name=name, directory="/data/model", fingerprint="0123456789abcdef")
    chosen, rejected = (
        open_responses(preset.generate, store, model, prompts, view) for view in (CLEAN, "diffusion-500")
    )
    pairs = open_pairs(preset.pair, store, prompts, chosen, [rejected])
    logps = open_logps(preset.train, store, model, pairs)
    policy = Training(config=preset.train, name=name, model=model, pairs=pairs).open(store)
    yield from (prompts, chosen, rejected, pairs, logps, policy)
    if hasattr(preset, "space"):
        searched = {"space": preset.space, "search": preset.search, "generate": preset.generate, "seeds": preset.seeds}
        yield store.open(f"studies/{name}", config=searched, inputs=[prompts])


def scored(store: Store, benchmark: Any) -> Iterator[Artifact]:
    """A benchmark's prompts, scores and what is beside them; the recipes' keys are those of the stages."""
    name = (
        type(benchmark).__name__ + str(getattr(benchmark, "camera", "")) + str(bool(getattr(benchmark, "ocr_path", "")))
    )
    prompts = of_source(store, f"prompts/{name}", benchmark)
    answers = open_responses(Generate(), store, MODEL, prompts, CLEAN)
    recipe = {"evaluate": Evaluate(), "benchmark": benchmark}
    if hasattr(benchmark, "instructions"):
        recipe |= judge_recipe(Judge(model="judge"), benchmark)
    scores = store.open(f"scores/{name}/policy", config=recipe, inputs=[answers, answers])
    yield from (prompts, answers, scores)
    yield store.open(f"repeats/{name}/policies", config={"evaluate": Evaluate()}, inputs=[scores])
    asked = {"evaluate": Evaluate(), "consistency": Consistency(num_answers=5)}
    yield store.open(f"consistency/{name}/policy", config=asked, inputs=[answers])
    yield store.open(f"harness/{name}/model", config={"asked": Harness(), "model": MODEL.fingerprint})
