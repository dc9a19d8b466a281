"""Regenerated images: a tiny diffusion model with random weights takes images into noise and back."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import full
import gallery
from seva_ray.augmentations import parse_view
from seva_ray.augmentations.regenerate import Regenerate
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import ConfigError, FingerprintMismatch, InputError
from seva_ray.core.seeds import key_of
from seva_ray.core.shards import shard_name
from seva_ray.core.storage import read_table
from seva_ray.engines import FakeEngine
from seva_ray.engines.config import Generate
from seva_ray.engines.encoded import encode, encoded_of
from seva_ray.engines.img2img import Regeneration, Regenerator, check_pipeline, fitting, num_weights
from seva_ray.planning.forecast import forecast, regenerate
from seva_ray.planning.memory import pipeline_line
from seva_ray.planning.rates import Rates
from seva_ray.planning.simulation import Faults
from seva_ray.sources import ToyWorld
from seva_ray.stages import generate as generation
from seva_ray.stages import regenerate as stage
from seva_ray.stages.prepare import Prepare, prepare, shards_of
from seva_ray.toy.ddpm import DiffusionRecipe, train
from seva_ray.vlm.models import Model, model_at
from seva_ray.vlm.rows import PIXELS
from seva_ray.vlm.views import Viewer
from tests.made_up import ids_of
from tests.test_plan import FLEET, RATES, WORK

VIEW = "regenerate-0.5"
MODEL = Model(name="model", directory="/models/model", fingerprint="0")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An unconditional pipeline with random weights."""
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16, layers_per_block=1, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("pipelines") / "tiny"
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def guided_pipeline(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A pipeline of Stable Diffusion's parts, with random weights and three words."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(4, 8), norm_num_groups=4, layers_per_block=1, cross_attention_dim=8,
        attention_head_dim=2, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=[4, 8], norm_num_groups=4, latent_channels=4, sample_size=16,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
    )  # fmt: skip
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}
    text = CLIPTextConfig(
        vocab_size=3, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=8, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=vae, unet=unet, text_encoder=CLIPTextModel(text), scheduler=DDIMScheduler(clip_sample=False),
        tokenizer=CLIPTokenizer(vocab=words, merges=[], model_max_length=8, unk_token="<|endoftext|>"),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("pipelines") / "guided"
    pipeline.save_pretrained(directory)
    return str(directory)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "runs"))


@pytest.fixture
def prompts(store: Store) -> Artifact:
    return prepare(Prepare(shard_size=8), store, "toy", ToyWorld(num_images=2))


def config_of(pipeline: str, **changes) -> Generate:
    regeneration = Regeneration(pipeline=pipeline, num_steps=4, max_px=16, batch_size=3) if pipeline else Regeneration()
    return Generate(engine=FakeEngine(), system="", regeneration=regeneration, **changes)


def pictures(number: int, size: tuple[int, int] = (16, 16)) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [
        Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), np.uint8).astype(np.uint8))
        for _ in range(number)
    ]


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.tobytes() == other.tobytes()


def made(config: Generate, store: Store, prompts: Artifact, view: str = VIEW) -> Artifact:
    """The images of a view, made in this process."""
    artifact = stage.open_images(config, store, prompts, view)
    worker = stage.ImageWorker(config, artifact, prompts, view)
    for index in range(prompts.counts["num_shards"]):
        worker.commit(shard_name(index))
    return stage.open_images(config, store, prompts, view)


def test_a_view_is_named_by_its_strength():
    assert parse_view("regenerate-0.5") == Regenerate(strength=0.5)
    for label, words in [
        ("regenerate-0.50", "must be written regenerate-0.5"),
        ("regenerate-2", "strength 2.0 must be 0.01 to 1"),
        ("regenerate", "must be regenerate-<strength> with a number"),
        ("regenerate-0.5+diffusion-300", "must be regenerate-<strength> with a number"),
    ]:
        with pytest.raises(ConfigError, match=words):
            parse_view(label)


def test_an_image_depends_on_its_seed_and_its_strength_and_not_on_the_batch(pipeline: str):
    config = Regeneration(pipeline=pipeline, num_steps=10, batch_size=4)
    regenerator = Regenerator(config, pipeline)
    images = pictures(4)
    found = regenerator(images, 0.5, [1, 2, 3, 4])
    alone = [regenerator([image], 0.5, [seed])[0] for image, seed in zip(images, [1, 2, 3, 4], strict=True)]
    for one, other in zip(found, alone, strict=True):
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1
    assert same(found[0], regenerator(images[:1], 0.5, [1])[0])
    assert not same(found[0], regenerator(images[:1], 0.5, [5])[0])
    far = [
        np.abs(np.asarray(regenerator(images[:1], strength, [1])[0], int) - np.asarray(images[0], int)).mean()
        for strength in (0.1, 0.4, 1.0)
    ]
    assert far[0] < far[1] < far[2]


def test_the_steps_are_those_of_diffusers(pipeline: str):
    """The last step alone, by the formulas of DDPM: x_0 from x_t and the predicted noise."""
    import torch
    from diffusers import UNet2DModel

    (image,) = pictures(1)
    (found,) = Regenerator(Regeneration(pipeline=pipeline, num_steps=4), pipeline)([image], 0.25, [7])
    betas = np.linspace(1e-4, 0.02, 1000)
    signal = float(np.cumprod(1 - betas)[0])
    noise = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(7))
    x = torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1)
    noised = signal**0.5 * x + (1 - signal) ** 0.5 * noise
    with torch.no_grad():
        predicted = UNet2DModel.from_pretrained(pipeline, subfolder="unet").eval()(noised, 0).sample
    clean = ((noised - (1 - signal) ** 0.5 * predicted) / signal**0.5).clamp(-1, 1)
    expected = ((clean[0].numpy().transpose(1, 2, 0) + 1) * 127.5).round()
    assert np.abs(np.asarray(found, float) - expected).max() <= 1
    assert not same(found, image)


def test_a_pipeline_that_reads_a_text_makes_what_diffusers_makes_of_each_image_alone(guided_pipeline: str):
    import torch
    from diffusers import StableDiffusionImg2ImgPipeline

    config = Regeneration(pipeline=guided_pipeline, prompt="a", num_steps=4, guidance_scale=2.0, batch_size=2)
    images = pictures(3, (24, 16))
    found = Regenerator(config, guided_pipeline)(images, 0.5, [1, 2, 3])
    alone = StableDiffusionImg2ImgPipeline.from_pretrained(guided_pipeline, safety_checker=None)
    for image, made, seed in zip(images, found, (1, 2, 3), strict=True):
        generator = torch.Generator().manual_seed(seed)
        (expected,) = alone(
            prompt="a", image=image, strength=0.5, num_inference_steps=4, guidance_scale=2.0, generator=generator
        ).images
        assert made.size == image.size
        assert np.abs(np.asarray(made, int) - np.asarray(expected, int)).max() <= 1


def test_the_gallery_shows_regenerated_images(pipeline: str, tmp_path: Path):
    Image.new("RGB", (64, 64), (200, 60, 60)).save(tmp_path / "red.png")
    regeneration = Regeneration(pipeline=pipeline, num_steps=2, max_px=16)
    image, out = str(tmp_path / "red.png"), str(tmp_path / "views.png")
    gallery.main(gallery.Gallery(image=image, views=("clean", VIEW), out=out, regeneration=regeneration))
    with Image.open(tmp_path / "views.png") as picture:
        clean, made = (np.asarray(picture.crop((left, 12, left + 336, 348))) for left in (12, 360))
    assert (clean == (200, 60, 60)).all()
    assert made.std() > 10
    with pytest.raises(ConfigError, match="pipeline must name"):
        gallery.Gallery(image=image, views=("clean", VIEW))


def test_the_toy_worlds_diffusion_model_is_such_a_pipeline_and_follows_from_its_recipe(tmp_path: Path):
    recipe = DiffusionRecipe(num_images=4, num_steps=2, batch_size=2, channels=(8, 8, 16))
    trained = train(recipe, tmp_path / "one", report=lambda line: None)
    train(recipe, tmp_path / "two", report=lambda line: None)
    weights = [(tmp_path / name / "unet/diffusion_pytorch_model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]
    assert trained["num_parameters"] > 10_000
    made = Regenerator(Regeneration(num_steps=2), str(tmp_path / "one"))([Image.new("RGB", (48, 48))], 0.5, [1])
    assert made[0].size == (48, 48)


def test_images_are_made_at_a_size_that_a_pipeline_can_halve():
    assert fitting((16, 16), 512) == (16, 16)
    assert fitting((1280, 960), 512) == (512, 384)
    assert fitting((1000, 3), 512) == (512, 8)
    assert fitting((50, 33), 512) == (48, 32)


def test_images_of_several_sizes_come_back_in_order(pipeline: str):
    images = [*pictures(2), *pictures(1, (24, 8)), *pictures(1)]
    found = Regenerator(Regeneration(pipeline=pipeline, num_steps=2, batch_size=2), pipeline)(images, 0.5, [0, 1, 2, 3])
    assert [image.size for image in found] == [(16, 16), (16, 16), (24, 8), (16, 16)]


def test_every_prompt_has_its_image_from_its_own_seed_and_the_units_of_generation_see_it(pipeline, store, prompts):
    config = config_of(pipeline)
    images = made(config, store, prompts)
    assert images.name == f"images/toy/{VIEW}"
    rows = [
        row for index in range(prompts.counts["num_shards"])
        for row in read_table(images.path(shard_name(index))).to_pylist()
    ]  # fmt: skip
    assert [row["prompt_id"] for row in rows] == ids_of(prompts)
    assert all(row["error"] is None for row in rows)
    assert len({row["image"] for row in rows}) == len(rows), "questions about one image have draws of their own"

    prompt = read_table(prompts.path(shard_name(0))).to_pylist()[0]
    source = stage.ImageWorker(config, images, prompts, VIEW).image(prompt)
    regenerator = Regenerator(config.regeneration, pipeline)
    (expected,) = regenerator([source], 0.5, [key_of(0, prompt["prompt_id"], VIEW)])
    assert (
        stage.png(expected)
        == rows[0]["image"]
        == stage.images_made(store, images_done(images, prompts))(prompt["prompt_id"], VIEW)
    )

    artifact = generation.open_responses(config, store, MODEL, prompts, VIEW)
    assert artifact.recipe["inputs"].keys() == {"prompts/toy", images.name}
    (unit, *_) = generation.units_of(MODEL, prompts, VIEW, artifact)
    viewer = Viewer(encoder=config.engine.encoder("", ""), image_root=None, max_pixels=10**8)
    (encoded,) = encoded_of(*encode([unit], viewer))
    assert encoded.prompts[0].row is not None
    of_image = viewer.encoder.row("", expected).features[PIXELS]
    assert np.array_equal(viewer.encoder.finished(encoded.prompts[0].row).features[PIXELS], of_image)
    with pytest.raises(InputError, match="its images are made beforehand"):
        viewer.row(prompt, VIEW)


def images_done(images: Artifact, prompts: Artifact) -> Artifact:
    images.finish({"num_images": prompts.counts["num_prompts"], "num_failed": 0})
    return prompts


def test_a_prompt_that_cannot_be_used_keeps_its_error(pipeline, store, prompts):
    config = config_of(pipeline)
    artifact = stage.open_images(config, store, prompts, VIEW)
    worker = stage.ImageWorker(config, artifact, prompts, VIEW)
    good = read_table(prompts.path(shard_name(0))).to_pylist()[0]
    bad, lost = good | {"prompt_id": "bad", "error": "no question"}, good | {"prompt_id": "lost", "image_bytes": b"x"}
    found = worker.images_of([bad, good, lost])
    assert [row["prompt_id"] for row in found] == ["bad", good["prompt_id"], "lost"]
    assert [row["image"] is None for row in found] == [True, False, True]
    assert found[0]["error"] == "no question"
    assert "image bytes" in found[2]["error"]
    assert found[1]["error"] is None


def test_another_pipeline_is_another_recipe_and_one_that_moved_is_not(pipeline, store, prompts, tmp_path):
    made(config_of(pipeline), store, prompts).finish({})
    moved = str(shutil.copytree(pipeline, tmp_path / "moved"))
    assert stage.open_images(config_of(moved), store, prompts, VIEW).complete
    other = shutil.copytree(pipeline, tmp_path / "other")
    scheduler = other / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("linear", "scaled_linear"))
    with pytest.raises(FingerprintMismatch, match=r"config\.pipeline"):
        stage.open_images(config_of(str(other)), store, prompts, VIEW)


def change(directory: Path, what: str) -> None:
    index = directory / "model_index.json"
    if what == "code":
        (directory / "unet" / "unet.py").write_text("print('run')")
    elif what == "pickle":
        weights = next((directory / "unet").glob("*.safetensors"))
        weights.unlink()
        (directory / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps({}))
    elif what == "library":
        index.write_text(json.dumps(json.loads(index.read_text()) | {"vae": ["my_code", "Vae"]}))
    else:
        index.write_text("[]" if what == "list" else "{")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("code", r"has code of its own \(unet/unet\.py\), which is never run"),
        ("pickle", r"unet/diffusion_pytorch_model\.bin is pickled; save it as safetensors"),
        ("library", "its vae comes from 'my_code', which is not known"),
        ("list", "names no class of diffusers"),
        ("cut", "has no readable model_index.json"),
    ],
)
def test_a_directory_that_would_run_code_or_is_no_pipeline_is_one_line(pipeline, tmp_path, what, words):
    directory = Path(shutil.copytree(pipeline, tmp_path / "bad"))
    assert check_pipeline(str(directory))["_class_name"] == "DDPMPipeline"
    change(directory, what)
    with pytest.raises(InputError, match=words):
        check_pipeline(str(directory))


def test_a_job_says_before_anything_runs_that_a_pipeline_is_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"view regenerate-0\.5: --generate\.regeneration\.pipeline must name"):
        stage.check_regeneration(config_of(""), ("clean", VIEW))
    with pytest.raises(InputError, match=r"has no readable model_index\.json"):
        stage.check_regeneration(config_of(str(tmp_path)), (VIEW,))
    stage.check_regeneration(config_of(""), ("clean", "diffusion-500"))
    job = full.Full(name="a", model="toy", source=ToyWorld(), views=(VIEW,), root=str(tmp_path))
    with pytest.raises(ConfigError, match="must name a directory"):
        next(full.stages(job))


def test_a_plan_knows_the_images_that_are_left_and_the_memory_of_the_weights(pipeline, store, prompts):
    from diffusers import UNet2DModel

    unet = UNet2DModel.from_pretrained(pipeline, subfolder="unet")
    assert num_weights(pipeline) == sum(parameter.numel() for parameter in unet.parameters())
    assert pipeline_line(pipeline, "float32", 0.0).endswith("its images; the card has 0 GiB, so it does not fit")

    config, number = config_of(pipeline), prompts.counts["num_prompts"]
    assert stage.images_left(config, store, None, VIEW, 500) == 500
    assert stage.images_left(config, store, prompts, "clean", number) == 0
    assert stage.images_left(config, store, prompts, VIEW, number) == number
    worker = stage.ImageWorker(config, stage.open_images(config, store, prompts, VIEW), prompts, VIEW)
    worker.commit(shard_name(0))
    assert stage.images_left(config, store, prompts, VIEW, number) == number - 8
    for index in range(1, prompts.counts["num_shards"]):
        worker.commit(shard_name(index))
    stage.open_images(config, store, prompts, VIEW).finish({})
    assert stage.images_left(config, store, prompts, VIEW, number) == 0


def test_the_stage_of_a_plan_has_a_worker_on_each_gpu():
    work = replace(WORK, num_images=16_000)
    made = regenerate(work, Rates(regenerate_rows_per_s=2.0), FLEET, num_nodes=1)
    assert [made.wall_s, made.gpu_hours, made.cpu_hours] == pytest.approx([1000.0, 8000 / 3600, 0.0])
    assert made.work == "16,000 images by 8 workers"
    unknown = regenerate(work, Rates(), FLEET, num_nodes=1)
    assert (unknown.wall_s, unknown.unknown) == (0.0, ("regenerate_rows_per_s",))
    names = [item.name for item in forecast(work, RATES, FLEET, Faults(), 1).stages]
    assert names[:3] == ["prepare", "regenerate", "generate"]
    assert "regenerate" not in [item.name for item in forecast(WORK, RATES, FLEET, Faults(), 1).stages]


@pytest.mark.slow
def test_on_ray_the_images_are_made_first_and_only_missing_shards_are_made_again(
    ray_cluster, pipeline, store, prompts, toy_model
):
    config, model = config_of(pipeline), model_at(toy_model)
    (responses,) = generation.generate(config, store, model, [(prompts, VIEW)])
    images = store.find(f"images/toy/{VIEW}")
    assert responses.counts["num_responses"] == images.counts["num_images"] == prompts.counts["num_prompts"]
    shards = [Path(images.path(shard)) for shard in shards_of(prompts)]
    before = [shard.stat().st_mtime_ns for shard in shards]
    contents = shards[0].read_bytes()
    shards[0].unlink()
    Path(images.path("record.json")).unlink()
    generation.generate(config, store, model, [(prompts, VIEW)])
    assert shards[0].read_bytes() == contents, "the same images again"
    assert [shard.stat().st_mtime_ns for shard in shards[1:]] == before[1:]
