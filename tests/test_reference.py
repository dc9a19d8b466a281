"""Reference log-probabilities: what the starting model itself says, once for every run that trains on the pairs."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from seva_ray.artifacts import Artifact, Store
from seva_ray.dpo import Train
from seva_ray.encoding import Encoder
from seva_ray.engines import Decoding, TransformersEngine
from seva_ray.errors import FingerprintMismatch
from seva_ray.models import Model, model_at
from seva_ray.policy import load_model
from seva_ray.preferences import PreferenceCollator, response_logps
from seva_ray.sources import ToyWorld
from seva_ray.stages.generate import Generate, generate
from seva_ray.stages.pair import Pair, pair, read_pairs
from seva_ray.stages.prepare import Prepare, prepare, shard_name
from seva_ray.stages.reference import reference, with_reference
from seva_ray.views import Viewer

CONFIG = Train(dtype="float32", num_workers=1, per_device_batch_size=4, global_batch_size=4)


@dataclass(frozen=True, kw_only=True)
class Run:
    store: Store
    model: Model
    prompts: Artifact
    pairs: Artifact


@pytest.fixture(scope="module")
def run(ray_cluster: None, toy_model: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    store = Store(str(tmp_path_factory.mktemp("runs")))
    model = model_at(toy_model)
    prompts = prepare(Prepare(shard_size=16), store, "toy", ToyWorld(num_images=5))
    config = Generate(engine=TransformersEngine(), decoding=Decoding(max_new_tokens=12), system="")
    chosen, *rejected = generate(config, store, model, [(prompts, view) for view in ("clean", "diffusion-900", "moco")])
    return Run(store=store, model=model, prompts=prompts, pairs=pair(Pair(), store, prompts, chosen, rejected))


def test_they_are_the_starting_models_own_in_either_layout(run: Run, toy_model: str):
    pairs = read_pairs(run.prompts, run.pairs)
    assert len(pairs) > 10
    found = [
        with_reference(pairs, run.prompts, reference(config, run.store, run.model, run.pairs)).to_pylist()
        for config in (CONFIG, replace(CONFIG, shared_prefix=False))
    ]
    viewer = Viewer(encoder=Encoder(toy_model), image_root=None, max_pixels=10**6)
    model = load_model(toy_model, "float32")
    for packed, plain in zip(*found, strict=True):
        assert len(packed["ref_logps"]) == 1 + len(packed["rejected"])
        with torch.no_grad():
            (alone,) = response_logps(model, PreferenceCollator(viewer=viewer, packed=False)([plain])).tolist()
        assert packed["ref_logps"] == pytest.approx(alone, rel=1e-5, abs=1e-4)
        assert plain["ref_logps"] == pytest.approx(alone, rel=1e-5, abs=1e-4)


def test_every_loss_and_beta_shares_them_and_a_restart_computes_what_is_missing(run: Run):
    logps = reference(CONFIG, run.store, run.model, run.pairs)
    files = {path: path.stat().st_mtime_ns for path in Path(logps.uri).glob("shard-*.parquet")}
    assert len(files) == run.prompts.counts["num_shards"] > 1
    assert reference(replace(CONFIG, beta=0.4, learning_rate=1.0), run.store, run.model, run.pairs) == logps
    Path(logps.path("record.json")).unlink()
    lost = Path(logps.path(shard_name(1)))
    content = lost.read_bytes()
    lost.unlink()
    again = reference(CONFIG, run.store, run.model, run.pairs)
    assert again.counts == logps.counts
    assert lost.read_bytes() == content
    assert {path for path in files if path.stat().st_mtime_ns != files[path]} == {lost}


def test_those_of_another_model_are_refused(run: Run):
    reference(CONFIG, run.store, run.model, run.pairs)
    other = replace(run.model, fingerprint="another")
    with pytest.raises(FingerprintMismatch, match="model"):
        reference(CONFIG, run.store, other, run.pairs)
