"""docs/MODELS.md: what holds for each family of models, measured on tiny checkpoints with the families' own processors.

    make families                     all families, about 40 s each
    python -m tests.families_table qwen2_5_vl mistral3      measures some anew, and keeps the others' rows

What was measured stays in build/families, one file for each family.
"""

import json
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.tiny_models import FAMILIES

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "build" / "families"
PAGE = ROOT / "docs" / "MODELS.md"
NUM_ROWS = 100
NAMES = {
    "qwen2_vl": "Qwen2-VL",
    "qwen2_5_vl": "Qwen2.5-VL",
    "qwen3_vl": "Qwen3-VL",
    "qwen3_vl_moe": "Qwen3-VL-MoE",
    "llava": "LLaVA-1.5",
    "llava_next": "LLaVA-NeXT",
    "llava_onevision": "LLaVA-OneVision",
    "llava_interleave": "LLaVA with SigLIP (Interleave)",
    "pixtral": "Pixtral",
    "internvl": "InternVL (HF)",
    "idefics3": "Idefics3",
    "smolvlm": "SmolVLM",
    "gemma3": "Gemma 3",
    "paligemma": "PaliGemma",
    "mistral3": "Mistral 3",
}
HEADING = f"""\
# Models

Each family was measured on a tiny checkpoint with random weights, a real configuration and the family's own processor,
by `make families`. *Answers* are greedy, to {NUM_ROWS} questions about {NUM_ROWS} images of different shapes: how many
are equal, token by token, in vLLM on rows and in transformers alone on what the model's own processor makes of a chat.
*Noised* means the noise of step 500. *Nats off* is the largest difference between the log-probability of an answer in
training and the sum of what `generate` gave while it made the answer, in float32, in both layouts. *LoRA* is the number
of linears of the language model that an adapter changes.

| family | answers, clean | answers, noised | nats off, plain | nats off, packed | LoRA |
|---|---|---|---|---|---|
"""
ENDING = """
A family that is not in the table is served too if its processor follows the conventions of transformers: nothing in
seva_ray names a family but the token types of PaliGemma's responses. A model for which that does not hold is refused in
one line before anything is spent. For example:

- Mllama (Llama 3.2 Vision): *model type 'mllama' cannot be served exactly: for a question about an image of 224 x 224
  pixels what its processor makes of an image depends on the question*
- a model that vLLM has not: *vLLM 0.32.0 has no model for VipLlavaForConditionalGeneration; choose another engine with
  --generate.engine transformers-engine*
"""


def measure(name: str, scratch: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.family_answers", name, str(NUM_ROWS), str(scratch / name)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found | training(str(scratch / name))


def training(directory: str) -> dict[str, Any]:
    """Largest difference of both layouts from `generate`, in nats, and the number of linears for LoRA."""
    import io

    import torch

    from seva_ray.dpo.batch import PreferenceCollator
    from seva_ray.dpo.layout_check import check_layouts, generated
    from seva_ray.dpo.logps import response_logps
    from seva_ray.dpo.policy import load_model
    from seva_ray.vlm.encoding import Encoder
    from seva_ray.vlm.images import MAX_PIXELS
    from seva_ray.vlm.model_parts import expert_weights, language_linears
    from seva_ray.vlm.views import Viewer
    from tests.family_answers import photograph, question

    model = load_model(directory, "float32").eval()
    viewer = Viewer(encoder=Encoder(directory), image_root=None, max_pixels=MAX_PIXELS)
    pairs = []
    for number in range(3):
        file = io.BytesIO()
        photograph(number).save(file, "PNG")
        pairs.append({"image_path": None, "image_bytes": file.getvalue(), "question": question(number)})
    answers = [generated(model, viewer, pair) for pair in pairs]
    expected = torch.tensor([[float(answer.logps.sum()) for answer in row] for row in answers])
    rows = [
        pair | {"chosen_token_ids": first.token_ids, "rejected": [{"token_ids": second.token_ids}]}
        for pair, (first, second) in zip(pairs, answers, strict=True)
    ]
    off: dict[str, Any] = {"packed_because": check_layouts(model, viewer, pairs, packed=True)}
    for layout in ("plain", "packed"):
        with torch.no_grad():
            found = response_logps(model, PreferenceCollator(viewer=viewer, packed=layout == "packed")(rows))
        off[layout] = float((found - expected).abs().max())
    num_experts = sum(1 for _ in expert_weights(model))
    return off | {"linears": len(language_linears(model)), "stacked_experts": num_experts}


def line(found: dict[str, Any]) -> str:
    def of_all(kind: str) -> str:
        return f"{found[kind]} of {found['rows']}"

    packed = "plain is used" if found["packed_because"] else f"{found['packed']:.0e}"
    experts = f", without {found['stacked_experts']} stacked experts" if found["stacked_experts"] else ""
    cells = [NAMES[found["family"]], of_all("clean"), of_all("noised"), f"{found['plain']:.0e}", packed]
    return f"| {' | '.join(cells)} | {found['linears']}{experts} |\n"


def main() -> None:
    MEASURED.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or [name for name in FAMILIES if name != "smolvlm" or find_spec("num2words")]:
        with tempfile.TemporaryDirectory() as scratch:
            found = measure(name, Path(scratch))
        (MEASURED / f"{name}.json").write_text(json.dumps(found, indent=1))
        print(line(found), end="", flush=True)
    there = [MEASURED / f"{name}.json" for name in FAMILIES if (MEASURED / f"{name}.json").exists()]
    PAGE.write_text(HEADING + "".join(line(json.loads(file.read_text())) for file in there) + ENDING)


if __name__ == "__main__":
    main()
