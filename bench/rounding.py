"""What rounding does to a policy when its adapter is merged: error of the weights and of what the policy says.

    python -m bench.rounding --root runs --policy policies/toy

The starting model is taken as if it had been published in float16, as LLaVA-1.5 is. The exact policy is that model plus
the adapter's update, in float32. It is compared with the policy as stored in bfloat16 (the dtype of training, in which
policies were merged before) and in float16 (the model's own dtype). All of them compute in float32, so that only the
rounding of the weights is seen.
"""

import argparse
import json
from itertools import chain, islice

import torch
from peft import PeftModel

from seva_ray.core.artifacts import Store
from seva_ray.core.shards import shards_in
from seva_ray.core.storage import read_table
from seva_ray.dpo.batch import PreferenceCollator
from seva_ray.dpo.logps import response_logps
from seva_ray.dpo.policy import load_model, merge
from seva_ray.pairs.files import lineage
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.image_options import image_options_of
from seva_ray.vlm.views import Viewer


def main(root: str, name: str, num_pairs: int) -> None:
    store = Store(root)
    policy = store.find(name)
    (pairs_name,) = policy.recipe["inputs"]
    pairs = store.find(pairs_name)
    prompts, chosen, _ = lineage(store, pairs)
    directory = store.uri(f"models/{policy.counts['start']['name']}/model")
    model = load_model(directory, "float16").float()
    start = {key: weight.clone() for key, weight in model.state_dict().items()}
    exact = merge(PeftModel.from_pretrained(model, policy.path("adapter"), torch_device="cpu")).state_dict()
    exact = {key: weight.clone() for key, weight in exact.items()}
    stored = {
        "bfloat16": {key: weight.bfloat16().float() for key, weight in exact.items()},
        "float16": {key: weight.half().float() for key, weight in exact.items()},
    }
    changed = [key for key in exact if not torch.equal(exact[key], start[key])]

    def norm(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], keys: list[str]) -> float:
        return sum(float((one[key] - other[key]).double().square().sum()) for key in keys) ** 0.5

    encoder = Encoder(directory, chosen.recipe["config"]["system"], image_options_of(chosen.recipe["config"]))
    viewer = Viewer(
        encoder=encoder,
        image_root=prompts.counts["image_root"],
        max_pixels=chosen.recipe["config"]["max_image_pixels"],
    )
    shards = (read_table(pairs.path("pairs", shard)).to_pylist() for shard in shards_in(pairs.path("pairs")))
    rows = list(islice(chain.from_iterable(shards), num_pairs))
    batch = PreferenceCollator(viewer=viewer)(rows)

    def logps(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        model.load_state_dict(weights)
        with torch.no_grad():
            return response_logps(model.eval(), batch)

    of_start, of_exact = logps(start), logps(exact)
    learnt = (of_exact - of_start).square().mean().sqrt()
    found = {
        "weights' update, norm": norm(exact, start, changed),
        "log-probabilities' change, nats, rms": float(learnt),
    }
    for dtype, weights in stored.items():
        found |= {
            f"{dtype}: error of weights over update": norm(weights, exact, changed) / norm(exact, start, changed),
            f"{dtype}: error of log-probabilities over change": float(
                (logps(weights) - of_exact).square().mean().sqrt() / learnt
            ),
        }
    print(json.dumps({"policy": name, "pairs": len(rows)} | {key: round(value, 5) for key, value in found.items()}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="runs")
    parser.add_argument("--policy", default="policies/toy")
    parser.add_argument("--num-pairs", type=int, default=64)
    given = parser.parse_args()
    main(given.root, given.policy, given.num_pairs)
