"""What jobs share: fields of their configurations, a model that two cores can train, and LLaVA-1.5 as in the paper."""

from dataclasses import dataclass, field, replace

from seva_ray.core.artifacts import Store
from seva_ray.core.patience import Storage
from seva_ray.dpo.config import Train
from seva_ray.dpo.policy import Lora
from seva_ray.engines import Decoding, VllmEngine
from seva_ray.engines.config import Generate
from seva_ray.sources import AnySource, LlavaJson, ToyWorld
from seva_ray.toy.recipe import ToyRecipe

USUAL = (
    "generate.engine", "generate.max-engines", "generate.engine.tensor-parallel-size", "train.beta", "train.loss.name",
    "train.learning-rate", "train.num-pairs", "train.num-workers", "train.per-device-batch-size", "train.seed",
    "train.lora.rank", "benchmarks.toy-images", "benchmarks.pope", "benchmarks.pope-images", "benchmarks.mmbench",
    "report.num-samples", "source.num-images", "source.path", "source.image-root", "source.questions",
    "source.question-column", "source.image-column", "pair.name", "pair.filters.length-ratio", "space.views",
    "space.betas", "space.learning-rates", "space.curve", "search.method", "search.scheduler", "search.num-points",
    "probe.name", "rates.rows-per-s", "rates.start-s", "rates.step-s", "fleet.nodes", "fleet.gpus-per-node",
    "export.to", "export.what", "export.push", "harness.download",
)  # fmt: skip
"""Options of a job's parts that `--help` shows, if the job has them; `--help-all` shows the others too."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """The fields of every job that reads or makes artifacts."""

    root: str = "runs"
    """Where artifacts are kept: a directory, or an fsspec URI such as s3://bucket/runs."""

    storage: Storage = field(default_factory=Storage)
    """What happens when the storage does not answer."""

    def store(self) -> Store:
        """The store under `root`. Raises: InputError if it cannot be written."""
        self.storage.take_effect()
        store = Store(self.root)
        store.check_writable()
        return store


@dataclass(frozen=True, kw_only=True)
class ModelJob(Job):
    """A job that starts from a model, which may be a toy base."""

    toy: ToyRecipe = field(default_factory=ToyRecipe)
    """How a toy base is trained, if the model is `toy`."""


def prompts_of(prompts: str, source: AnySource, name: str, toy: str = "toy") -> str:
    """The name of the prompt set: as given; if it is empty, that of the presets for their kinds of source, which share
    prompts; for any other source the job's own name."""
    usual = {ToyWorld: toy, LlavaJson: "llava-mix"}
    return prompts or usual.get(type(source), name)


TOY_GENERATE = Generate(
    engine=VllmEngine(dtype="float32", max_model_len=256, enforce_eager=True),
    decoding=Decoding(max_new_tokens=44),
    system="",
)
TOY_TRAIN = Train(
    lora=Lora(rank=16, alpha=32),
    learning_rate=1e-4,
    warmup_ratio=0.1,
    num_repeats=1,
    num_pairs=1000,
    global_batch_size=24,
    per_device_batch_size=12,
    dtype="float32",
    gradient_checkpointing=False,
)

LLAVA_GENERATE = Generate()
LLAVA_TRAIN = Train()
LLAVA_13B_TRAIN = replace(LLAVA_TRAIN, zero_stage=3, per_device_batch_size=1)
