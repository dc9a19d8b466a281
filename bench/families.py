"""How exactly each family of models is served and trained -> docs/MODELS.md.

    make families                       without vLLM, a few minutes
    python -m bench.families --vllm     with it, ten minutes more

The models are the tests': a real configuration and the family's real processor, with tiny random weights, in float32.
"""

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.fresh import in_fresh_process
from seva_ray.runtime.cli import run
from seva_ray.runtime.progress import say

TABLE = Path("docs/MODELS.md")
NUM_PROMPTS, NUM_TOKENS = 20, 8
TITLES = (
    "family", "image tokens", "nats off, plain", "nats off, packed", "linears with an adapter",
    "expert weights without one", "merged as the adapter",
)  # fmt: skip
IN_VLLM = "vLLM as transformers, clean and noised"


@dataclass(frozen=True, kw_only=True)
class Families:
    """The families to measure."""

    names: tuple[str, ...] = ()
    """Names of tests/tiny_models.py; empty: all."""
    vllm: bool = False
    """Also compare the answers of vLLM with those of transformers."""
    out: str = field(default=str(TABLE))
    """The file that the table is written to."""


def main(config: Families) -> None:
    from tests.every_model import BARE, EVERY
    from tests.tiny_models import FAMILIES

    titles = [*TITLES, IN_VLLM] if config.vllm else list(TITLES)
    lines = [titles, ["---"] * len(titles)]
    for name in config.names or FAMILIES:
        lines.append(in_fresh_process(row_of, name, config.vllm))
        say(f"families: {', '.join(lines[-1])}")
    others = [["family", "at the door", *TITLES[2:4]], ["---"] * 4]
    for name in (*EVERY, *BARE) if not config.names else ():
        others.append(in_fresh_process(tried, name))
        say(f"families: {', '.join(others[-1])}")
    first, second = ("".join(f"| {' | '.join(line)} |\n" for line in some) for some in (lines, others))
    Path(config.out).write_text(INTRODUCTION + first + OTHERS + second + ENDING, encoding="utf-8")


INTRODUCTION = """# Models

Each family of models, as `make families` measured it on two cores: a real configuration and the family's real
processor, with tiny random weights, in float32. Images are 40 to 99 px wide and high.

- *nats off*: the largest difference between the log-probability of an answer in training's batches and that which
  transformers' `generate` reports of it, summed over the answer's tokens. *plain* has one row per answer, *packed* one
  per pair.
- *linears with an adapter*: those of the language model that LoRA changes, of all that the language model has. Experts
  lie in parameters that are no linears; `--train.lora.experts` changes them too, and never what chooses them.
- *merged as the adapter*: greedy answers of the exported model that equal those of the start with the adapter.
- *vLLM as transformers* (with `--vllm`): greedy answers that are equal on the same rows, clean and noised (step 500).
  vLLM computes no attention in both directions on a CPU, and on a GPU only between the tokens of an image. It would say
  nothing and answer wrongly (Gemma 3: 90 of 100 right, PaliGemma: 47), so such models are refused there.

"""

OTHERS = """
## Families that nothing was written for

A family that is not in the table is served too if its processor follows the conventions of transformers. These were
tried in the same way. What is not served is refused in one line before a model loads; what cannot be scored exactly in
the packed layout is trained in the plain one. They were not tried in vLLM.

"""

INEXACT = 1e-4
"""A layout is not used if it changes a log-probability by this many nats or more."""

NOT_TRAINED = "answers; not trained, because its batches cannot be scored exactly"

ENDING = """
- MiniMax-M3-VL and HunYuan-VL answer otherwise in a batch than alone: in transformers 5.19, the vision tower of the
  first lets the images of a batch see each other, and the positions of the second count the images of all rows. The
  transformers engine tries every model before its first batch, and asks such a model one by one. In half precision a
  difference below 0.02 nats cannot be told from rounding there.
- GLM-5-next, Qwen4-Exp: each token reads only the most relevant ones where a prompt with its answer is longer than
  `index_topk` or `indexer_budget`. Then GLM-5-next scores a row otherwise if it is filled up to the length of others,
  and the check before training refuses it.
- Qwen2.5-Omni and Qwen3-Omni: the part that answers in words (`thinker`) is served as a model of its own.
- Nemotron-H-Omni was tried with another feature extractor of sounds, because its own one needs librosa.
- Gemma 4 Unified: by its source in transformers 5.19, an image is seen in both directions in all layers by the forward
  pass, and in those with a window alone by the masks for a static cache. Training has the second rule, which is that of
  Gemma 4, and finds that `generate` differs.
- FastVLM and Gemma 3n need timm. They were not tried with it.

No code of seva_ray asks for a family by its name. Other lines of refusal:

- Mllama (Llama 3.2 Vision): *model type 'mllama' cannot be served exactly: for a question about an image of 224 x 224
  pixels what its processor makes of an image depends on the question*
- a model with code of its own, such as Kimi-VL or Molmo: *model type 'kimi_vl' comes with code of its own, which is
  never run; if the same weights are published in the format of transformers (often with -hf in the name), take those*
- a model that vLLM has not: *vLLM 0.32.0 has no model for VipLlavaForConditionalGeneration; choose another engine with
  --generate.engine transformers-engine*
"""


def row_of(name: str, with_vllm: bool) -> list[str]:
    """The line of the table for one family."""
    from seva_ray.vlm.encoding import Encoder
    from tests.family_pictures import picture
    from tests.tiny_models import save_family

    with tempfile.TemporaryDirectory() as scratch:
        directory = save_family(name, Path(scratch, name), weights=True)
        encoder = Encoder(directory)
        rows = [encoder.row(f"What is at place {seed}?", picture(seed)) for seed in range(NUM_PROMPTS)]
        numbers = sorted({row.num_image_tokens for row in rows})
        images = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
        off = [f"{value:.0e}" for value in nats_off(directory)]
        in_vllm = [answered_alike(name, scratch)] if with_vllm else []
        return [name, images, *off, *adapted(directory), exported(directory, rows, scratch), *in_vllm]


def nats_off(directory: str) -> list[float]:
    """Returns how far the plain and the packed layout are off, in nats."""
    import io

    import torch

    from seva_ray.dpo.batch import PreferenceCollator
    from seva_ray.dpo.layout_check import generated
    from seva_ray.dpo.logps import response_logps
    from seva_ray.dpo.policy import load_model
    from seva_ray.vlm.encoding import Encoder
    from seva_ray.vlm.images import MAX_PIXELS
    from seva_ray.vlm.views import Viewer
    from tests.family_pictures import picture

    viewer = Viewer(encoder=Encoder(directory), image_root=None, max_pixels=MAX_PIXELS)
    model, pairs, expected = load_model(directory, "float32").eval(), [], []
    for seed in range(NUM_PROMPTS // 4):
        picture(seed).save(file := io.BytesIO(), "PNG")
        pair: dict[str, Any] = {"image_path": None, "image_bytes": file.getvalue()}
        pair["question"] = "What is it?" + " And why?" * seed
        first, second = generated(model, viewer, pair)
        expected.append([float(first.logps.sum()), float(second.logps.sum())])
        pairs.append(pair | {"chosen_token_ids": first.token_ids, "rejected": [{"token_ids": second.token_ids}]})
    found = []
    for packed in (False, True):
        with torch.no_grad():
            logps = response_logps(model, PreferenceCollator(viewer=viewer, packed=packed)(pairs))
        found.append(float((logps - torch.tensor(expected)).abs().max()))
    return found


def adapted(directory: str) -> list[str]:
    """Linears with an adapter, and weights of experts without one."""
    import torch

    from seva_ray.dpo.policy import load_model
    from seva_ray.vlm.model_parts import expert_weights, language_linears, unwrapped

    model = load_model(directory, "float32")
    every = [part for part in unwrapped(model).get_decoder().modules() if isinstance(part, torch.nn.Linear)]
    num_experts = sum(weight.numel() for weight in expert_weights(model).values())
    return [f"{len(language_linears(model))} of {len(every)}", f"{num_experts:,}" if num_experts else "none"]


def exported(directory: str, rows: Any, scratch: str) -> str:
    """How many answers of the merged model are those of the adapter."""
    import torch
    from peft import get_peft_model

    from seva_ray.dpo.policy import Lora, export, load_model, load_policy

    model = load_model(directory, "float32")
    policy = get_peft_model(model, Lora(rank=8, alpha=16).peft(model)).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, weight in policy.named_parameters():
            if "lora_B" in key:
                weight.copy_(0.2 * torch.randn(weight.shape, generator=random))
    policy.save_pretrained(f"{scratch}/adapter")
    export(load_policy(directory, f"{scratch}/adapter", "float32"), directory, f"{scratch}/merged")
    merged = load_model(f"{scratch}/merged", "float32").eval()
    return equal([answer(policy, row) for row in rows], [answer(merged, row) for row in rows])


def answer(model: Any, row: Any) -> list[int]:
    """Returns the greedy answer of transformers alone."""
    import torch

    known = {name: torch.from_numpy(values)[None] for name, values in row.tokens.items()}
    known |= {name: torch.from_numpy(values) for name, values in row.features.items()}
    ids = torch.tensor([row.ids])
    made = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), **known, max_new_tokens=NUM_TOKENS, do_sample=False
    )
    return list(made[0, len(row.ids) :].tolist())


def answered_alike(name: str, scratch: str) -> str:
    """How many of 100 answers of vLLM are those of transformers, on clean and on noised rows; or why vLLM refuses."""
    command = [sys.executable, "-m", "tests.family_answers", name, "100", f"{scratch}/answers"]
    ended = subprocess.run(command, capture_output=True, text=True)
    if refusal := re.search(r"InputError: model \S+: (.*?);", ended.stderr):
        return f"refused: {refusal.group(1)}"
    found = json.loads(ended.stdout.splitlines()[-1])
    return f"{found['clean']} and {found['noised']} of 100"


def tried(name: str) -> list[str]:
    """The line of the table for a family for which this project has no code."""
    from tests.every_model import outcome

    with tempfile.TemporaryDirectory() as directory:
        found = outcome(name, Path(directory))
        if found != "served":
            return [name, found.partition("; families that are served")[0], "", ""]
        plain, packed = nats_off(directory)
        if plain > INEXACT:
            return [name, NOT_TRAINED, f"{plain:.0e}", f"{packed:.0e}"]
        return [name, "served", f"{plain:.0e}", f"{packed:.0e}" if packed < INEXACT else "plain alone"]


def equal(some: list[Any], others: list[Any]) -> str:
    return f"{sum(list(one) == list(other) for one, other in zip(some, others, strict=True))} of {len(some)}"


if __name__ == "__main__":
    run(main, {"families": Families()}, "How exactly each family of models is trained and served.")
