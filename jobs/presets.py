"""What jobs share: fields of their configurations, a model that two cores can train, LLaVA-1.5 as in the paper, and
other published models."""

from dataclasses import dataclass, field, replace

import python_check  # noqa: F401 -- it must come first
from seva_ray.benchmarks import Benchmark, Benchmarks
from seva_ray.benchmarks.judged import JudgedBenchmark, JudgedBenchmarks
from seva_ray.core.artifacts import Store
from seva_ray.core.errors import ConfigError
from seva_ray.core.patience import Storage
from seva_ray.dpo.config import Train, is_shown
from seva_ray.dpo.methods import METHODS, MethodName, trained_by
from seva_ray.dpo.policy import Lora
from seva_ray.engines import Decoding, TransformersEngine, VllmEngine, engine_here, has_vllm
from seva_ray.engines.config import Generate
from seva_ray.runtime.progress import say
from seva_ray.sources import AnySource, LlavaJson, ToyWorld
from seva_ray.stages.pair import Pair
from seva_ray.toy.recipe import ToyRecipe

USUAL = (
    "generate.engine", "generate.max-engines", "generate.engine.tensor-parallel-size", "train.beta", "train.loss.name",
    "train.learning-rate", "train.num-pairs", "train.num-workers", "train.per-device-batch-size", "train.seed",
    "train.lora.rank", "benchmarks.toy-images", "benchmarks.pope", "benchmarks.pope-images", "benchmarks.mmbench",
    "report.num-samples", "source.num-images", "source.path", "source.image-root", "source.questions",
    "source.question-column", "source.image-column", "pair.name", "pair.filters.length-ratio", "space.views",
    "space.betas", "space.learning-rates", "space.curve", "search.method", "search.scheduler", "search.num-points",
    "probe.name", "rates.rows-per-s", "rates.start-s", "rates.step-s", "fleet.nodes", "fleet.gpus-per-node",
    "export.to", "export.what", "export.push", "export.base", "export.license", "harness.download", "browse.to",
    "margins.num-pairs",
    "data.path", "data.image-root", "data.columns", "ladder.num-prompts", "ladder.only-flips",
    "select.name", "select.edit-distance", "select.flip-step", "select.reference-margin", "select.by", "select.share",
    "select.order",
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
    """How a toy base is trained, if the model is `toy` or `toy-qwen`."""

    def store(self) -> Store:
        """The same store. It also prints a line if vLLM is not installed, so that another engine answers."""
        engine = getattr(getattr(self, "generate", None), "engine", None)
        if isinstance(engine, TransformersEngine) and not has_vllm():
            say("vLLM is not installed here, so transformers generates the answers, which takes longer")
        return super().store()


def prompts_of(prompts: str, source: AnySource, name: str, toy: str = "toy") -> str:
    """The name of the prompt set: as given; if it is empty, that of the presets for their kinds of source, which share
    prompts; for any other source the job's own name."""
    usual = {ToyWorld: toy, LlavaJson: "llava-mix"}
    return prompts or usual.get(type(source), name)


def benchmarks_of(
    benchmarks: Benchmarks, judged: JudgedBenchmarks, generate: Generate
) -> list[Benchmark | JudgedBenchmark]:
    """The chosen benchmarks, without and with a judge. Raises: InputError if a file is not as published."""
    system = benchmarks.system_of_source(generate.system)
    return [*benchmarks.chosen(generate.system), *judged.chosen(system, benchmarks.mmbench_protocol)]


def settings_of(
    name: MethodName, train: Train, pair: Pair, views: tuple[str, ...]
) -> tuple[Train, Pair, tuple[str, ...]]:
    """The settings of training and of pairs, and the rejected views, by which a method is run. Pairs that are made in
    another way than SeVa's have the method's name. Raises: ConfigError if the settings contradict the method."""
    train, method = trained_by(name, train), METHODS[name]
    if method.rejected != "view":
        pair = replace(pair, rejected=method.rejected, name=pair.name or name)
    views = method.views or views
    if train.loss.reads_view and not train.loss.image_view:
        for view in views:
            if not is_shown(view):
                raise ConfigError(
                    f"view {view}: training cannot show it, as image terms need; use train.loss.image_view"
                )
    return train, pair, views


TOY_GENERATE = Generate(
    engine=engine_here(VllmEngine(dtype="float32", max_model_len=256, enforce_eager=True)),
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

LLAVA_MIX = LlavaJson(path="llava_v1_5_mix665k.json", image_root="images")
LLAVA_GENERATE = Generate()
LLAVA_TRAIN = Train()
LLAVA_13B_TRAIN = replace(LLAVA_TRAIN, zero_stage=3)


@dataclass(frozen=True, kw_only=True)
class ModelPreset:
    """A published model, and how jobs run it. Models of other families than LLaVA-1.5 have the settings that the paper
    chose for LLaVA-1.5, except for the system text: theirs is what their own chat template writes."""

    model: str
    """Its repository at Hugging Face, of which the copy in the cache of this machine is used; or a directory."""
    view: str = "diffusion-500"
    """The rejected view."""
    pair: Pair = field(default_factory=Pair)
    generate: Generate = LLAVA_GENERATE
    train: Train = LLAVA_TRAIN
    benchmarks: Benchmarks = field(default_factory=Benchmarks)
    """How benchmarks ask the model: as in the evaluation that its authors published."""
    pixel_bytes: float
    """Bytes of the features of one photograph of 1280 x 960 pixels as they travel, in 8 bits."""
    model_bytes: float
    """Bytes of its weights in 16 bits."""
    linear_sizes: int
    """Sum of the sizes of both sides of every linear of the language model; times a rank it is the size of LoRA."""

    @property
    def name(self) -> str:
        """The name under which its results are stored."""
        return self.model.rpartition("/")[2]

    @property
    def pairs(self) -> str:
        """The name under which its pairs are stored."""
        return f"{self.name}/llava-mix/{self.view}" + (f"+{self.pair.name}" if self.pair.name else "")

    @property
    def trained_parameters(self) -> int:
        return self.train.lora.rank * self.linear_sizes


SIZES = {
    "llava-7b": ModelPreset(
        model="llava-1.5-7b-hf",
        pixel_bytes=3 * 336**2,
        model_bytes=2 * 7.06e9,
        linear_sizes=32 * (4 * (4096 + 4096) + 3 * (4096 + 11008)),
    ),
    "llava-13b": ModelPreset(
        model="llava-1.5-13b-hf",
        train=LLAVA_13B_TRAIN,
        pixel_bytes=3 * 336**2,
        model_bytes=2 * 13.35e9,
        linear_sizes=40 * (4 * (5120 + 5120) + 3 * (5120 + 13824)),
    ),
}
CUT = Pair(max_per_source={"ocr_vqa": 4300, "textvqa": 6500}, name="10800")
"""Step 800 makes more pairs than step 500. The authors cut them to about as many."""
ROWS = {f"{name}-diffusion800": replace(of, view="diffusion-800", pair=CUT) for name, of in SIZES.items()}
ROWS |= {f"{name}-moco": replace(of, view="moco") for name, of in SIZES.items()}
"""The rows of the paper's main table with another rejected view."""
LLAVA = SIZES | ROWS
"""All rows of that table, by the names of their presets. The paper does not say the settings of 13B."""


def generate_of(image_options: str = "", max_model_len: int = 4096) -> Generate:
    engine = VllmEngine(dtype="bfloat16", max_model_len=max_model_len)
    return Generate(engine=engine_here(engine), system="", image_options=image_options)


TILE_384, TILE_448 = 3 * 384**2, 3 * 448**2
"""Bytes of one tile of an image, in 8 bits."""
QWEN2_7B = 28 * (2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944))
AS_QWEN2 = Benchmarks(pope_protocol="qwen2-vl", mmbench_protocol="qwen2-vl", asked_as="qwen2-vl")
AS_QWEN3 = Benchmarks(pope_protocol="qwen2-vl", mmbench_protocol="qwen3-vl", asked_as="qwen3-vl")
AS_INTERNVL = Benchmarks(pope_protocol="llava", asked_as="internvl")
AS_ONEVISION = Benchmarks(pope_protocol="llava", asked_as="llava-onevision")
AS_SMOLVLM2 = Benchmarks(pope_protocol="smolvlm2", mmbench_protocol="smolvlm2", asked_as="smolvlm2")
PUBLISHED = {
    "qwen2.5-vl-7b": ModelPreset(
        model="Qwen/Qwen2.5-VL-7B-Instruct",
        generate=generate_of('{"size": {"longest_edge": 1003520}}'),  # 1280 tokens of 28 x 28 px
        benchmarks=AS_QWEN2,
        pixel_bytes=3 * 2 * 1280 * 28**2,
        model_bytes=2 * 8.29e9,
        linear_sizes=QWEN2_7B,
    ),
    "qwen3-vl-8b": ModelPreset(
        model="Qwen/Qwen3-VL-8B-Instruct",
        generate=generate_of('{"size": {"longest_edge": 1310720}}'),  # 1280 tokens of 32 x 32 px
        benchmarks=AS_QWEN3,
        pixel_bytes=3 * 2 * 1200 * 32**2,
        model_bytes=2 * 8.77e9,
        linear_sizes=36 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 12288)),
    ),
    "internvl3-8b": ModelPreset(
        model="OpenGVLab/InternVL3-8B-hf",
        generate=generate_of('{"max_patches": 6}'),  # tiles of 256 tokens, and an overview
        benchmarks=AS_INTERNVL,
        pixel_bytes=7 * TILE_448,
        model_bytes=2 * 7.94e9,
        linear_sizes=QWEN2_7B,
    ),
    "llava-onevision-7b": ModelPreset(
        model="llava-hf/llava-onevision-qwen2-7b-ov-hf",
        # A photograph of 640 x 480 px fits into 4 tiles as it is; with an overview they are 5 of 729 tokens. At its
        # start vLLM tries the largest image by itself: 36 tiles, of which the model makes 7290 tokens.
        generate=generate_of('{"max_patches": 4}', max_model_len=10240),
        benchmarks=AS_ONEVISION,
        pixel_bytes=5 * TILE_384,
        model_bytes=2 * 8.03e9,
        linear_sizes=QWEN2_7B,
    ),
    "smolvlm2-2b": ModelPreset(
        model="HuggingFaceTB/SmolVLM2-2.2B-Instruct",
        generate=generate_of('{"size": {"longest_edge": 1152}}'),  # up to 3 x 3 tiles of 81 tokens, and an overview
        benchmarks=AS_SMOLVLM2,
        pixel_bytes=10 * TILE_384 * 11 / 3,  # with the mask of the pixels, which has 64 bits
        model_bytes=2 * 2.25e9,
        linear_sizes=24 * (4 * (2048 + 2048) + 3 * (2048 + 8192)),
    ),
}
"""Models of other families than LLaVA-1.5."""
MODELS = LLAVA | PUBLISHED
