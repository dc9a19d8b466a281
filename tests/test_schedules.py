"""Diffusion noise of other schedules, against diffusers' own schedulers."""

import numpy as np
import pytest

from seva_ray.augmentations import parse_view
from seva_ray.augmentations.diffusion import alpha_bar, cosine_alpha_bar, linear_alpha_bar
from seva_ray.core.errors import ConfigError

SCHEDULES = {
    "diffusion_linear": ("linear", linear_alpha_bar),
    "diffusion_cosine": ("squaredcos_cap_v2", cosine_alpha_bar),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_that_of_diffusers(name: str):
    from diffusers import DDPMScheduler

    of_diffusers, ours = SCHEDULES[name]
    expected = DDPMScheduler(num_train_timesteps=1000, beta_schedule=of_diffusers).alphas_cumprod.numpy()
    assert np.allclose(ours(), expected, rtol=2e-6, atol=1e-9)
    assert np.abs(ours() - alpha_bar()).max() > 0.1, "it is not SeVa's"


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("noise_step", [0, 500, 999])
def test_the_view_adds_the_noise_of_its_step(name: str, noise_step: int):
    import torch
    from diffusers import DDPMScheduler

    pixels = np.random.default_rng(1).normal(size=(3, 4, 4)).astype(np.float32)
    view = parse_view(f"{name}-{noise_step}")
    assert view
    assert view.label == f"{name}-{noise_step}"
    made = view.pixels(pixels, np.random.default_rng(2))
    noise = np.random.default_rng(2).standard_normal(pixels.shape, dtype=np.float32)
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule=SCHEDULES[name][0])
    expected = scheduler.add_noise(torch.from_numpy(pixels), torch.from_numpy(noise), torch.tensor([noise_step]))
    assert np.allclose(made, expected.numpy(), atol=1e-5)


def test_a_schedule_joins_other_augmentations_and_needs_its_step():
    joined = parse_view("rand_flip+diffusion_cosine-300")
    assert joined
    assert joined.label == "rand_flip+diffusion_cosine-300"
    with pytest.raises(ConfigError, match=r"must be diffusion_linear-<noise_step> with a whole number"):
        parse_view("diffusion_linear")
