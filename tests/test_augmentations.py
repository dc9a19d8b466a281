"""Augmentations: the paper's parameters, torchvision's semantics, randomness from the key alone, and labels."""

import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image, ImageFilter
from torchvision import transforms

from seva_ray.augmentations import (
    AUGMENTATIONS,
    BEYOND_SEVA,
    CLEAN,
    Augmentation,
    Chain,
    parse_view,
    sampled,
    temperature_of,
)
from seva_ray.augmentations.diffusion import alpha_bar
from seva_ray.augmentations.geometric import RandFlip, RandomRotation
from seva_ray.core.artifacts import Store
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.fingerprints import fingerprint_of, identity
from seva_ray.core.seeds import generator
from seva_ray.vlm.images import load_image
from tests.real_photos import photo, write_photos

# The paper's list in torchvision's words, written out a second time. Blur is PIL's: see BLUR.
TORCHVISION: dict[str, Callable[[Image.Image], Image.Image]] = {
    "pad": transforms.Pad(50),
    "center_crop": transforms.CenterCrop(128),
    "random_crop": transforms.RandomCrop(224),
    "random_resized_crop": transforms.RandomResizedCrop(224, scale=(0.36, 0.64)),
    "rand_flip": transforms.RandomHorizontalFlip(p=0.5),
    "random_perspective": transforms.RandomPerspective(distortion_scale=0.6, p=1.0),
    "random_rotation": transforms.RandomRotation(degrees=(0, 180)),
    "random_affine": transforms.RandomAffine(degrees=(30, 70), translate=(0.1, 0.3), scale=(0.5, 0.75)),
    "grayscale": transforms.Grayscale(3),
    "color_jitter": transforms.ColorJitter(0.4, 0.4, 0.4, 0.1),
    "random_invert": transforms.RandomInvert(p=0.5),
    "random_posterize": transforms.RandomPosterize(bits=2, p=0.5),
    "random_solarize": transforms.RandomSolarize(threshold=128, p=0.5),
    "random_equalize": transforms.RandomEqualize(p=0.5),
    "random_adjust_sharpness": transforms.RandomAdjustSharpness(sharpness_factor=0, p=0.5),
    "random_autocontrast": transforms.RandomAutocontrast(p=0.5),
    "gaussian_blur": lambda image: image,
    "rand_augment": transforms.RandAugment(),
    "auto_augment": transforms.AutoAugment(),
    "moco": transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(0.2, 1.0)),
            transforms.RandomHorizontalFlip(0.5),
            transforms.ColorJitter(0.4, 0.4, 0.4, 0.1),
            transforms.RandomGrayscale(0.2),
        ]
    ),
    "byol": transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(0.08, 1.0)),
            transforms.RandomHorizontalFlip(0.5),
            transforms.ColorJitter(0.4, 0.4, 0.4, 0.1),
            transforms.RandomGrayscale(0.2),
        ]
    ),
    "simclr": transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(0.2, 1.0)),
            transforms.RandomHorizontalFlip(0.5),
            transforms.ColorJitter(0.4, 0.4, 0.4, 0.4),
            transforms.RandomGrayscale(0.2),
        ]
    ),
}
DETERMINISTIC = ("pad", "center_crop", "grayscale")
BLUR = ("gaussian_blur", "moco", "byol")
WITHOUT_TORCH = ("gaussian_blur",)
DIALS = {
    "pad": (0, 20, 2000),
    "center_crop": (1, 96, 4000),
    "random_crop": (1, 96, 4000),
    "random_resized_crop": (0.01, 0.25, 0.64),
    "random_perspective": (0, 0.3, 1),
    "random_rotation": (0, 22.5, 360),
    "color_jitter": (0, 1.5, 5),
    "random_posterize": (1, 4, 8),
    "random_solarize": (0, 200, 255),
    "random_adjust_sharpness": (0.5, 2, 10),
    "gaussian_blur": (0.1, 8, 100),
    "rand_augment": (0, 15, 30),
    "moco": (0.01, 0.4, 1),
    "byol": (0.01, 0.4, 1),
    "simclr": (0.01, 0.4, 1),
    "diffusion": (0, 500, 999),
    "small_crop": (0.02, 0.1, 1),
}
BEYOND = {"small_crop": transforms.RandomResizedCrop(224, scale=(0.01, 0.2)), "blank": lambda image: image}
"""What SeVa's list does not have."""
LABELS = [*TORCHVISION, *(f"{name}-{value}" for name, values in DIALS.items() for value in values)]
VIEWS = [*TORCHVISION, "diffusion-500", "rand_flip+color_jitter+diffusion-300"]


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """Neither black nor white is in it, so that more contrast would show."""
    return photo("skimage/astronaut.png").resize((300, 260)).point(lambda level: 40 + level * 160 // 255)


def view(label: str) -> Augmentation:
    augmentation = parse_view(label)
    assert augmentation is not None
    return augmentation


def shown(label: str, image: Image.Image, key: str = "a", seed: int = 0) -> bytes:
    """All that comes out of a view: size, bytes of the image, and of pixels made from it."""
    random = generator(seed, key, label)
    augmented = view(label).image(image, random)
    pixels = view(label).pixels(np.asarray(augmented, np.float32).transpose(2, 0, 1) / 255, random)
    assert pixels.dtype == np.float32
    return repr(augmented.size).encode() + augmented.tobytes() + pixels.tobytes()


def expected(name: str, image: Image.Image, random: np.random.Generator) -> Image.Image:
    """What torchvision's transform makes of the draws that follow from the generator; then PIL's blur."""
    if name not in WITHOUT_TORCH:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(random.integers(2**32)))
            image = TORCHVISION[name](image)
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0))) if name in BLUR else image


def everything_global() -> tuple[object, ...]:
    """The states of the generators that no augmentation may use."""
    numpy_state = np.random.get_state(legacy=False)["state"]
    return torch.get_rng_state().tolist(), numpy_state["key"].tolist(), numpy_state["pos"], random.getstate()


def test_the_list_is_the_papers() -> None:
    assert [name for name in AUGMENTATIONS if name not in BEYOND_SEVA] == [*TORCHVISION, "diffusion"]
    assert set(BEYOND) == set(BEYOND_SEVA)


def test_a_small_crop_keeps_at_most_a_fifth_of_the_image_as_torchvision_cuts_it(picture: Image.Image) -> None:
    for key in range(3):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(generator(key).integers(2**32)))
            cut = BEYOND["small_crop"](picture)
        assert view("small_crop").image(picture, generator(key)) == cut


def test_a_blank_image_is_the_mean_colour_and_nothing_else(picture: Image.Image) -> None:
    assert view("blank").image(picture, generator(0)) == picture
    pixels = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    made = view("blank").pixels(pixels, generator(0))
    assert made.dtype == np.float32
    assert not made.any()
    assert pixels.any(), "the given pixels stay as they are"


@pytest.mark.parametrize("name", TORCHVISION)
def test_an_augmentation_with_the_papers_parameters_is_torchvisions(name: str, picture: Image.Image) -> None:
    for key in range(6):
        made = view(name).image(picture, generator(key, name))
        assert made.mode == "RGB"
        assert made == expected(name, picture, generator(key, name))


@pytest.mark.parametrize(
    ("label", "transform"),
    [
        ("pad-20", transforms.Pad(20)),
        ("center_crop-96", transforms.CenterCrop(96)),
        ("random_crop-96", transforms.RandomCrop(96)),
        ("random_resized_crop-0.1", transforms.RandomResizedCrop(224, scale=(0.1, 0.64))),
        ("random_perspective-0.3", transforms.RandomPerspective(0.3, 1.0)),
        ("random_rotation-90", transforms.RandomRotation((0, 90))),
        ("color_jitter-1.5", transforms.ColorJitter(1.5 * 0.4, 1.5 * 0.4, 1.5 * 0.4, 1.5 * 0.1)),
        ("random_posterize-4", transforms.RandomPosterize(4, 0.5)),
        ("random_solarize-200", transforms.RandomSolarize(200, 0.5)),
        ("random_adjust_sharpness-2", transforms.RandomAdjustSharpness(2, 0.5)),
        ("rand_augment-15", transforms.RandAugment(magnitude=15)),
    ],
)
def test_a_dial_turns_the_parameter_that_it_names(
    label: str, transform: Callable[[Image.Image], Image.Image], picture: Image.Image
) -> None:
    for key in range(4):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(generator(key).integers(2**32)))
            there = transform(picture)
        assert view(label).image(picture, generator(key)) == there


@pytest.mark.parametrize("name", ["moco", "byol", "simclr"])
def test_the_dial_of_a_contrastive_view_keeps_its_crop_large(name: str) -> None:
    """A crop of everything shows a picture whose halves differ as exactly that, at most flipped."""
    halves = Image.new("RGB", (100, 100), (0, 0, 0))
    halves.paste((200, 200, 200), (50, 0, 100, 100))
    for key in range(4):
        levels = np.asarray(view(f"{name}-1").image(halves, generator(key)).convert("L"))
        dark, bright = sorted((levels[:, :106], levels[:, 118:]), key=np.mean)
        assert dark.max() < bright.min()


def test_blur_draws_its_sigma_between_a_tenth_and_the_dial() -> None:
    class Picture:
        """Stands where an image does, and tells what it is filtered with."""

        def filter(self, blur: Any) -> Any:
            return blur.radius

    image: Any = Picture()
    sigmas: list[Any] = [view("gaussian_blur-8").image(image, generator(key)) for key in range(400)]
    assert 0.1 <= min(sigmas) < 0.3
    assert 7.7 < max(sigmas) <= 8


@pytest.mark.parametrize("label", VIEWS)
def test_the_same_key_has_the_same_bytes_whatever_else_was_drawn(label: str, picture: Image.Image) -> None:
    once = shown(label, picture)
    for everything in (torch.manual_seed, np.random.seed, random.seed):
        everything(12345)
    assert shown(label, picture) == once


@pytest.mark.parametrize("label", VIEWS)
def test_another_key_has_other_bytes(label: str, picture: Image.Image) -> None:
    small = picture.crop((0, 0, 225, 230))
    rows = {shown(label, small, key=str(key)) for key in range(10)}
    seeds = {shown(label, small, seed=seed) for seed in range(10)}
    least = 1 if label in DETERMINISTIC else 2
    assert len(rows) >= least
    assert len(seeds) >= least
    if label in DETERMINISTIC:
        assert len(rows | seeds) == 1


@pytest.mark.parametrize("label", VIEWS)
def test_the_image_the_pixels_and_all_global_randomness_stay_as_they_were(label: str, picture: Image.Image) -> None:
    image, pixels = picture.copy(), np.zeros((3, 8, 8), np.float32)
    before = everything_global()
    view(label).image(image, generator(0))
    view(label).pixels(pixels, generator(0))
    assert everything_global() == before
    assert image == picture
    assert not pixels.any()


def test_torchs_state_comes_back_after_an_image_that_cannot_be_cropped() -> None:
    before = everything_global()
    with pytest.raises(InputError):
        view("random_crop").image(Image.new("RGB", (10, 10)), generator(0))
    assert everything_global() == before


def test_threads_do_not_mix_their_draws(picture: Image.Image) -> None:
    keys = [str(key) for key in range(24)]
    alone = [shown("color_jitter", picture, key=key) for key in keys]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda key: shown("color_jitter", picture, key=key), keys))
    assert together == alone


@pytest.mark.parametrize("label", VIEWS)
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (2, 2), (3000, 40)], ids=str)
def test_an_odd_size_is_augmented_or_refused_in_one_line(label: str, size: tuple[int, int]) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    refused = {"random_crop"} | ({"random_perspective"} if 1 in size else set())
    for key in range(3):
        if label in refused:
            with pytest.raises(InputError, match=rf"^view {label}: impossible for {size[0]}x{size[1]} px \(.*\)$"):
                view(label).image(Image.fromarray(levels), generator(key))
        else:
            assert view(label).image(Image.fromarray(levels), generator(key)).mode == "RGB"


@pytest.mark.parametrize("label", VIEWS)
def test_photographs_of_every_mode_are_augmented(label: str, photos: list[Image.Image]) -> None:
    for image in photos:
        assert view(label).image(image, generator(0)).mode == "RGB"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Image.Image]:
    """L, P with transparency, LA, RGBA, CMYK, I;16, turned by EXIF: as they are after loading, 230 px high."""
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder)
    root = folder / "images"
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() and path.stem not in ("dot", "banner")]
    loaded = [load_image(path=str(path.relative_to(root)), data=None, image_root=str(root)) for path in paths]
    assert len(loaded) >= 11
    return [image.resize((max(230, image.width * 230 // image.height), 230)) for image in loaded]


@pytest.mark.parametrize(
    ("noise_step", "signal", "sigma", "snr"),
    [
        (200, 0.9939, 0.1105, 80.9),
        (400, 0.9449, 0.3275, 8.32),
        (500, 0.8630, 0.5052, 2.92),
        (600, 0.7342, 0.6789, 1.17),
        (700, 0.5927, 0.8054, 0.54),
        (800, 0.4670, 0.8843, 0.279),
        (999, 0.2850, 0.9585, 0.088),
    ],
)
def test_noise_keeps_and_adds_as_much_as_published(noise_step: int, signal: float, sigma: float, snr: float) -> None:
    noise = view(f"diffusion-{noise_step}")
    silent = noise.pixels(np.zeros((3, 400, 400), np.float32), generator(1))
    kept = noise.pixels(np.ones((3, 400, 400), np.float32), generator(1)) - silent
    assert np.allclose(kept, signal, rtol=0, atol=6e-5)
    assert silent.std() == pytest.approx(sigma, rel=5e-3)
    assert kept.mean() ** 2 / silent.std(dtype=np.float64) ** 2 == pytest.approx(snr, rel=1.5e-2)


@pytest.mark.parametrize("noise_step", [0, 1, 200, 500, 800, 999])
def test_noise_equals_the_closed_form_and_diffusers(noise_step: int) -> None:
    pixels = generator(2).standard_normal((3, 48, 48), dtype=np.float32)
    eps = generator(3).standard_normal(pixels.shape, dtype=np.float32)
    made = view(f"diffusion-{noise_step}").pixels(pixels, generator(3))

    betas = torch.sigmoid(torch.linspace(-6, 6, 1000)) * (0.5e-2 - 1e-5) + 1e-5
    alpha_bar = torch.cumprod(1 - betas, dim=0)[noise_step].numpy()
    assert np.abs(made - (np.sqrt(alpha_bar) * pixels + np.sqrt(1 - alpha_bar) * eps)).max() < 1e-6

    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="sigmoid", beta_start=1e-5, beta_end=5e-3)
    there = scheduler.add_noise(torch.from_numpy(pixels), torch.from_numpy(eps), torch.tensor(noise_step)).numpy()
    assert np.abs(made - there).max() < 1e-6


def test_every_step_of_the_schedule_is_the_one_of_diffusers() -> None:
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="sigmoid", beta_start=1e-5, beta_end=5e-3)
    assert np.array_equal(alpha_bar(), scheduler.alphas_cumprod.numpy())


def test_noise_is_neither_clipped_nor_rounded() -> None:
    made = view("diffusion-999").pixels(np.full((3, 64, 64), 2.6, np.float32), generator(0))
    assert made.max() > 3
    assert made.min() < -2
    assert len(np.unique(made)) > 0.99 * made.size


def test_a_chain_applies_its_members_in_order_with_one_generator(picture: Image.Image) -> None:
    chain, one = view("random_rotation-90+pad-10+diffusion-300"), generator(4)
    by_hand, pixels = picture, np.ones((3, 20, 20), np.float32)
    for label in ("random_rotation-90", "pad-10"):
        by_hand = view(label).image(by_hand, one)
    noised = view("diffusion-300").pixels(pixels, one)

    other = generator(4)
    assert chain.image(picture, other) == by_hand
    assert np.array_equal(chain.pixels(pixels, other), noised)
    assert view("pad-10+random_rotation-90").image(picture, generator(4)) != by_hand


def test_a_chain_with_the_image_after_the_pixels_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"diffusion-300 works on the preprocessed pixels, so rand_flip"):
        parse_view("pad+diffusion-300+rand_flip")


@pytest.mark.parametrize("label", [*LABELS, "pad+pad-3", "rand_flip+moco-0.4+diffusion-999+diffusion-0"])
def test_a_label_is_read_back_and_names_a_directory(label: str) -> None:
    turned = {f"{name}-{AUGMENTATIONS[name]().label}" for name in TORCHVISION}
    assert label not in turned
    assert view(label).label == label
    assert view(view(label).label) == view(label)
    assert Store("runs").uri(f"responses/model/prompts/{label}").endswith(label)


def test_every_augmentation_with_a_dial_is_tried_at_its_limits() -> None:
    assert set(DIALS) == {name for name, kind in AUGMENTATIONS.items() if kind.dial_field()}, "add its values to DIALS"
    for name, (low, _, high) in DIALS.items():
        kind: Any = AUGMENTATIONS[name]
        dial = kind.dial_field()
        if name != "random_adjust_sharpness":  # its default is its lower limit
            assert dial.metadata == {"low": low, "high": high}
        for beyond in (-1, low - 1, high + 1, float("nan"), *([2.5] if dial.type is int else [])):
            with pytest.raises(ConfigError, match=rf"^{name}: {dial.name} .* must be .* to .*"):
                kind(**{dial.name: beyond})


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (
            "sharpen",
            "sampled-<temperature>, or made of these, joined by +: pad[-border_px], center_crop",
        ),
        ("", "no ''"),
        ("Pad", "no 'Pad'"),
        ("pad+", "no ''"),
        ("clean+pad", "no 'clean'"),
        ("../pad", "no '../pad'"),
        ("diffusion", "diffusion: must be diffusion-<noise_step> with a whole number, not ''"),
        ("diffusion-", "must be diffusion-<noise_step>"),
        ("diffusion-half", "must be diffusion-<noise_step>"),
        ("diffusion-1.5", "with a whole number, not '1.5'"),
        ("diffusion-1000", "noise_step 1000 must be 0 to 999"),
        ("diffusion--1", "noise_step -1 must be 0 to 999"),
        ("diffusion-0500", "must be written diffusion-500"),
        ("diffusion-5_00", "must be written diffusion-500"),
        ("diffusion-٥٠٠", "must be written diffusion-500"),
        ("diffusion- 500", "must be written diffusion-500"),
        ("random_rotation-180", "must be written random_rotation"),
        ("random_rotation-90.0", "must be written random_rotation-90"),
        ("random_rotation-9e1", "must be written random_rotation-90"),
        ("random_rotation--0", "must be written random_rotation-0"),
        ("random_rotation-nan", "must be 0 to 360"),
        ("random_rotation-far", "with a number, not 'far'"),
        ("random_resized_crop-0.7", "must be 0.01 to 0.64"),
        ("pad-", "must be written pad"),
        ("rand_flip-3", "must be written rand_flip"),
        ("sampled", "a view is clean, control-repeat, control-batch, sampled-<temperature>, or made"),
        ("sampled-0.70", "no 'sampled'"),
        ("sampled--1", "no 'sampled'"),
        ("sampled-nan", "no 'sampled'"),
        ("sampled-0.7=1", "after = comes the number of the draw, at least 2"),
        ("sampled-0.7+pad", "no 'sampled'"),
        ("+".join(["pad"] * 40), "longer than 128 characters"),
        ("pad-" + "9" * 5000, "longer than 128 characters"),
    ],
)
def test_a_label_that_is_not_the_one_of_a_view_is_refused_in_one_line(label: str, reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_view(label)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_clean_view_has_no_augmentation_sampled_or_not() -> None:
    for label in (CLEAN, "sampled-0.7", "sampled-0.7=3"):
        assert parse_view(label) is None


def test_a_sampled_views_label_has_its_temperature_and_the_number_of_its_draw() -> None:
    assert [sampled(0.7, draw) for draw in (1, 2)] == ["sampled-0.7", "sampled-0.7=2"]
    assert [sampled(value) for value in (1.0, 1e-7)] == ["sampled-1", "sampled-0.0000001"]
    for temperature in (0.7, 1.0, 1e-7, 12.5):
        assert temperature_of(sampled(temperature, 3)) == temperature
    assert temperature_of(CLEAN) is temperature_of("diffusion-500=2") is None


def test_every_parameter_is_plain_data_in_the_fingerprint() -> None:
    labels = [*LABELS, *BEYOND, "rand_flip+diffusion-300", "diffusion-300+diffusion-500", "diffusion-500+diffusion-300"]
    for label in labels:
        recipe = json.loads(json.dumps(identity(view(label))))
        if label.partition("-")[0] in BEYOND_SEVA:  # newer than the first version: defaults are left out
            continue
        assert set(recipe) == {"kind", *(field.name for field in fields(view(label)))}  # type: ignore[arg-type]
    assert len({fingerprint_of(identity(view(label))) for label in labels}) == len(labels)


def test_what_belongs_to_the_method_cannot_be_chosen_behind_the_label() -> None:
    with pytest.raises(TypeError):
        RandFlip(p=1.0)


def test_a_dial_in_whole_numbers_is_the_same_value_in_the_fingerprint() -> None:
    assert json.dumps(identity(RandomRotation(max_degrees=90))) == json.dumps(identity(view("random_rotation-90")))


def test_the_same_augmentations_chained_in_code_have_the_same_label() -> None:
    members = view("rand_flip"), view("diffusion-300")
    assert Chain(members=members) == view("rand_flip+diffusion-300")
