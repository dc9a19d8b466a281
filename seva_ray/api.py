"""The public API: the stages as functions over artifacts, for notebooks and for programs of one's own.

    from seva_ray import api

    store = api.Store("runs")
    with api.cluster():
        model = api.model_at("path/to/llava-1.5-7b-hf")
        prompts = api.prepare(api.Prepare(), store, "mine", api.Folder(path="photos"))
        work = [(prompts, "clean"), (prompts, "diffusion-500")]
        chosen, rejected = api.generate(api.Generate(), store, model, work)
        pairs = api.pair(api.Pair(), store, prompts, chosen, [rejected])
        policy = api.train(api.Train(), store, "mine", model, pairs)

What is named here keeps its name and its meaning between versions, as `CHANGELOG.md` says; other modules may change.
Every stage returns an artifact and reuses one that was made by the same recipe. docs/API.md tries each of them.
"""

from seva_ray.augmentations import parse_view
from seva_ray.benchmarks import Benchmarks
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import ConfigError, InputError, UserError
from seva_ray.dpo.config import Loss, Train
from seva_ray.dpo.policy import Lora
from seva_ray.engines import Decoding, TransformersEngine, VllmEngine
from seva_ray.engines.config import Generate
from seva_ray.pairs.files import files_of
from seva_ray.pairs.filters import Filters
from seva_ray.runtime.cluster import cluster
from seva_ray.sources import Folder, Hf, LlavaJson, QuestionList, Table, ToyWorld
from seva_ray.sources.preferences import Preferences
from seva_ray.stages.evaluate import evaluate, prepare_benchmarks
from seva_ray.stages.export import Export, export
from seva_ray.stages.export_pairs import ExportPairs, export_pairs
from seva_ray.stages.generate import generate, read_responses
from seva_ray.stages.import_pairs import Reading, import_pairs
from seva_ray.stages.pair import Pair, pair
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.results import headlines, result_table
from seva_ray.stages.score_files import Evaluate
from seva_ray.stages.training.train import train
from seva_ray.vlm.models import Model, model_at, model_of

__all__ = [
    "Artifact", "Benchmarks", "ConfigError", "Decoding", "Evaluate", "Export", "ExportPairs", "Filters", "Folder",
    "Generate", "Hf", "InputError", "LlavaJson", "Lora", "Loss", "Model", "Pair", "Preferences", "Prepare",
    "QuestionList", "Reading", "Store", "Table", "ToyWorld", "Train", "TransformersEngine", "UserError", "VllmEngine",
    "cluster", "evaluate", "export", "export_pairs", "files_of", "generate", "headlines", "import_pairs", "model_at",
    "model_of", "pair", "parse_view", "prepare", "prepare_benchmarks", "read_responses", "result_table", "train",
]  # fmt: skip
