"""How Direct Preference Optimization is done: its settings, the exchange of sides, and DeepSpeed's settings.

Source: Rafailov et al. 2023 (arXiv 2305.18290), with the settings of SeVa (arXiv 2404.10501) as defaults.
"""

import importlib.util
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from seva_ray.augmentations import parse_view
from seva_ray.augmentations.ladder import Ladder
from seva_ray.augmentations.regenerate import Regenerate
from seva_ray.core.checks import check_choice, check_least, check_positive
from seva_ray.core.errors import ConfigError
from seva_ray.core.fingerprints import execution
from seva_ray.core.seeds import key_of
from seva_ray.core.system_texts import SYSTEM_TEXTS
from seva_ray.dpo.policy import Lora

LossName = Literal["sigmoid", "softmax", "ipo", "hinge", "robust", "rpo", "length_normalised", "sft"]


def is_shown(view: str) -> bool:
    """Whether training can show this view of an image: an augmented one, and none that a diffusion model has made."""
    return not isinstance(parse_view(view), Regenerate | None)


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The loss and its own parameters. losses.py has the formulas and their sources."""

    kind: ClassVar[str] = "Loss"

    name: LossName = "sigmoid"
    """Name of the loss: sigmoid is DPO, softmax puts all rejected views of a pair into one softmax, rpo adds an SFT
    term, sft is fine-tuning on the chosen responses alone."""
    label_smoothing: float = 0.0
    """The assumed share of pairs whose sides are exchanged, at least 0 and below 0.5. Only robust uses it."""
    sft_weight: float = 1.0
    """Weight of the chosen response's negative log-likelihood per token. Only rpo uses it."""
    anchor_weight: float = 0.0
    """Weight of the anchor, a term that keeps the reward of the chosen response above 0 (mDPO). 0: no such term."""
    image_weight: float = 0.0
    """Weight of the image preference: the chosen response must be likelier on the clean image than on another view of
    it (mDPO). 0: no such term."""
    symmetric_weight: float = 0.0
    """Weight of the symmetric preference: on the rejected view, the answer to that view must beat the chosen response
    (SymMPO). 0: no such term."""
    margin_weight: float = 1e-4
    """Weight of the squared difference between the margins on the two images, in nats. It needs symmetric_weight."""
    image_view: str = ""
    """The view of the image that these terms read, such as random_resized_crop. Empty: the view of the pair's first
    rejected response, so that no other view is needed."""

    @property
    def reads_view(self) -> bool:
        """Whether training must score responses on another view of the image too."""
        return self.image_weight > 0 or self.symmetric_weight > 0

    def __post_init__(self) -> None:
        check_least(self, 0, "anchor_weight", "image_weight", "symmetric_weight", "margin_weight", finite=True)
        if self.image_view and not self.reads_view:
            raise ConfigError(f"image_view {self.image_view}: only a loss with an image_weight reads a view")
        if self.image_view and self.symmetric_weight:
            raise ConfigError(
                f"image_view {self.image_view}: with a symmetric_weight it must be empty, because the rejected "
                "response must be the answer to the view"
            )
        if self.image_view and (Ladder.of(self.image_view) or not is_shown(self.image_view)):
            raise ConfigError(f"image_view {self.image_view}: must be an augmented view of the image")
        if self.name not in get_args(LossName):
            raise ConfigError(f"loss {self.name}: must be one of {', '.join(get_args(LossName))}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ConfigError(f"label_smoothing {self.label_smoothing}: must be 0 or more and below 0.5")
        check_least(self, 0, "sft_weight", finite=True)


@dataclass(frozen=True, kw_only=True)
class Train:
    """Direct Preference Optimization. The defaults are the paper's (LLaVA-1.5, 8 GPUs)."""

    kind: ClassVar[str] = "Train"

    beta: float = 0.1
    """How strongly the policy is held close to the reference; above 0."""
    loss: Loss = field(default_factory=Loss)
    """How a pair's rewards become its loss."""
    learning_rate: float = 2e-6
    """Learning rate at the peak of the cosine schedule."""
    warmup_ratio: float = 0.03
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm. 0 clips nothing, as in the official SeVa."""
    system: Literal["generation", "llava_v1", "vicuna_v1"] = "generation"
    """System text of the prompts in training. `generation` is the text that the answers were generated with. The
    official SeVa generates with llava_v1 and trains with vicuna_v1."""
    strip_questions: bool = False
    """Remove white space at both ends of questions in training, as the official SeVa does."""
    num_repeats: int = 2
    """How often each pair is seen, in one shuffled epoch."""
    num_pairs: int | None = None
    """Largest number of pairs, chosen by a hash of prompt_id (None: all). A smaller set is part of a larger one."""
    global_batch_size: int = 128
    """Number of pairs per optimiser step."""
    seed: int = 42
    """Seed of the adapter's first weights and of the order of pairs."""
    group_by_image: bool = False
    """Shuffle images instead of pairs, so that pairs about one image come in one step and share its computation. Each
    pair's loss is the same, but a step sees fewer different images."""
    swap_sides: bool = False
    """Control experiment: exchange chosen and rejected in a random half of the pairs. A gain that remains is not due to
    SeVa."""
    lora: Lora = field(default_factory=Lora)
    """The LoRA adapter."""
    full: bool = False
    """Train all weights of the language model instead of an adapter."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Data type of the frozen weights and of autocast."""
    zero_stage: Literal[0, 1, 2, 3] = execution(2)
    """DeepSpeed ZeRO stage: 0 is plain data parallel, 1 shards the optimiser, 2 also gradients, 3 also weights."""
    num_workers: int | None = execution(None)
    """Number of workers, each with one GPU, or one CPU without GPUs. None means the largest number that the cluster has
    room for and that can share the global batch evenly."""
    min_workers: int | None = execution(None)
    """Smallest number of workers to train with if the cluster has no room for num_workers. It needs zero_stage 0,
    because a DeepSpeed checkpoint belongs to one number of workers. None means always num_workers."""
    per_device_batch_size: int | None = execution(None)
    """Number of pairs in one forward pass of one worker. None means 1, 2 or 4, as many as fit on its GPU."""
    shared_prefix: bool = execution(True)
    """Compute image and question once for all responses of a pair, if the model allows it."""
    gradient_checkpointing: bool = execution(True)
    """Recompute activations in the backward pass, which takes less memory and more time."""
    save_steps: int = execution(50)
    """Number of optimiser steps between checkpoints."""
    offload: bool = execution(False)
    """Keep the optimiser's states, and under ZeRO-3 the weights, in CPU memory, for models that do not fit on a GPU.
    The numbers stay the same, but the optimiser's step is slower. It has no benefit if workers have no GPU."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = execution(("tensorboard",))
    """The services to which training curves are sent, besides the report. wandb and mlflow read their own environment
    variables."""
    max_failures: int = execution(3)
    """How often a run may restart after losing workers. Nodes that were taken away with notice do not count."""
    wait_s: float = execution(3600.0)
    """Longest time that workers wait for their nodes, in seconds, at the start and whenever nodes are lost. Spot
    capacity may need this long to come back."""
    silent_s: float = execution(1800.0)
    """Seconds after which a worker that has scored no batch of pairs, and trained on none, is ended. Then the group
    starts again from its last checkpoint, as after a lost worker (max_failures)."""
    memory_check: bool = execution(True)
    """Refuse to start if the memory of the GPUs is too small by our estimate."""

    def __post_init__(self) -> None:
        check_positive(self, "beta", "learning_rate", "silent_s")
        check_least(self, 0, "max_grad_norm", finite=True)
        check_choice(self, "system", ("generation", *SYSTEM_TEXTS))
        if not 0 <= self.warmup_ratio < 1:
            raise ConfigError(f"warmup_ratio {self.warmup_ratio}: must be 0 or more and below 1")
        check_least(self, 0, "weight_decay", "seed", "max_failures", "wait_s")
        check_least(self, 1, "num_repeats", "global_batch_size", "per_device_batch_size", "save_steps")
        check_least(self, 1, "num_pairs", "num_workers", "min_workers")
        if self.offload and self.zero_stage == 0:
            raise ConfigError("offload: needs a zero_stage from 1 to 3")
        if self.lora.experts and self.zero_stage == 3:
            raise ConfigError("lora.experts: needs a zero_stage from 0 to 2, because PEFT adds to whole experts")
        for tracker in self.trackers:
            if importlib.util.find_spec(tracker) is None:
                raise ConfigError(f"trackers {tracker}: not installed; `pip install {tracker}` into the environment")
        self.check_workers()

    def check_workers(self) -> None:
        """Raises: ConfigError if the numbers of workers, or those that can be resolved, do not fit the rest."""
        if self.min_workers is not None and self.num_workers is not None and self.min_workers > self.num_workers:
            raise ConfigError(f"min_workers {self.min_workers}: must be 1 to num_workers {self.num_workers}")
        if self.min_workers not in (None, self.num_workers) and self.zero_stage:
            raise ConfigError(
                f"min_workers {self.min_workers}: with zero_stage {self.zero_stage} a checkpoint can only be read by "
                "as many workers as wrote it; zero_stage 0 allows it"
            )
        fewest = self.min_workers or self.num_workers or 1
        for number in range(fewest, (self.num_workers or fewest) + 1):
            if not self.can_share(number):
                given = "num_workers" if self.num_workers else "min_workers" if self.min_workers else ""
                factors = [f"{given} {number}"] if given else []
                if self.per_device_batch_size is not None:
                    factors.append(f"per_device_batch_size {self.per_device_batch_size}")
                raise ConfigError(
                    f"global_batch_size {self.global_batch_size}: must be a multiple of {' x '.join(factors)}"
                )

    def can_share(self, number: int, pairs_at_once: int = 1) -> bool:
        """Whether so many workers can share the global batch evenly, each with `pairs_at_once` pairs in a forward pass
        if per_device_batch_size does not say how many."""
        return self.global_batch_size % (number * (self.per_device_batch_size or pairs_at_once)) == 0


def swapped(pair: dict[str, Any], seed: int) -> dict[str, Any]:
    """The pair as it is, or in half of the cases with its chosen and first rejected response exchanged."""
    if key_of(seed, "swap", pair["prompt_id"]) % 2 == 0:
        return pair
    first, *others = pair["rejected"]
    exchanged = first | {"text": pair["chosen"], "token_ids": pair["chosen_token_ids"]}
    sides = {"chosen": first["text"], "chosen_token_ids": first["token_ids"], "rejected": [exchanged, *others]}
    if "ref_logps" in pair:
        of_chosen, of_first, *of_others = pair["ref_logps"]
        sides["ref_logps"] = [of_first, of_chosen, *of_others]
    if "view_ref_logps" in pair:
        sides["view_ref_logps"] = pair["view_ref_logps"][::-1]
    return pair | sides


def deepspeed_config(config: Train) -> dict[str, Any] | None:
    """DeepSpeed's settings for this ZeRO stage; None for stage 0. The trainer fills in the sizes. There is no optimiser
    block, because DeepSpeed would compile an op for minutes."""
    if config.zero_stage == 0:
        return None
    zero: dict[str, Any] = {"stage": config.zero_stage, "overlap_comm": False, "contiguous_gradients": True}
    if config.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    if config.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
    if config.offload and config.zero_stage == 3:
        zero["offload_param"] = {"device": "cpu"}
    return {
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,  # otherwise offload needs an optimiser that takes minutes to compile
        "bf16": {"enabled": "auto"},
        "data_types": {"grad_accum_dtype": "fp32"},  # the default is the weights' dtype: sums of 64 bfloat16 gradients
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
    }
