"""A small diffusion model of the toy world, for the views `regenerate-<strength>`: unlabelled scenes are all it learns.

In: a `DiffusionRecipe`. Out: a directory in diffusers' format (a UNet2DModel and a DDPMScheduler), and counts and
seconds. The same recipe and number of threads give the same weights. It takes about ten minutes on one CPU core.
Source: DDPM (arXiv 2006.11239), with the prediction of the noise and an average of the weights.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import mse_loss

from seva_ray.core.seeds import generator
from seva_ray.toy.world import CAMERAS, SIZE_PX, make_scene, render

FIRST_SCENE = 1_000_000
"""Number of the first scene that is learned from, far behind those that any source or benchmark shows."""


@dataclass(frozen=True, kw_only=True)
class DiffusionRecipe:
    """How the diffusion model is trained. Every field changes the weights."""

    seed: int = 1
    """Seed of the weights, the scenes, their order and the noise."""
    num_images: int = 8_000
    """Number of unlabelled scenes."""
    camera: str = "deployment"
    """The camera that sees them: that of the pictures which are to be regenerated."""
    num_steps: int = 700
    """Number of optimiser steps."""
    batch_size: int = 16
    """Number of images per step."""
    learning_rate: float = 2e-3
    """Peak learning rate of AdamW."""
    channels: tuple[int, ...] = (16, 32, 64)
    """Channels at 48, 24 and 12 px."""


def train(recipe: DiffusionRecipe, directory: str | Path, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Train by the recipe and save the pipeline to `directory`. Returns counts, the last loss and seconds."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
    from diffusers.training_utils import EMAModel

    started = time.perf_counter()
    pictures = unlabelled(recipe)
    torch.manual_seed(recipe.seed)
    unet = UNet2DModel(
        sample_size=SIZE_PX, layers_per_block=1, block_out_channels=recipe.channels, norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"), attention_head_dim=16,
    )  # fmt: skip
    scheduler = DDPMScheduler()
    average = EMAModel(unet.parameters(), decay=0.995, use_ema_warmup=True, power=0.75)
    optimizer = torch.optim.AdamW(unet.parameters(), recipe.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, recipe.num_steps, pct_start=0.1)
    rng = generator(recipe.seed, "toy ddpm")
    noises = torch.Generator().manual_seed(recipe.seed)
    loss = torch.tensor(0.0)
    for step in range(1, recipe.num_steps + 1):
        levels = pictures[rng.integers(0, len(pictures), recipe.batch_size)]
        pixels = torch.from_numpy(levels).float() / 127.5 - 1
        noise = torch.randn(pixels.shape, generator=noises)
        times = torch.randint(0, scheduler.config.num_train_timesteps, (len(pixels),), generator=noises)
        loss = mse_loss(unet(scheduler.add_noise(pixels, noise, times), times).sample, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        average.step(unet.parameters())
        if step % 50 == 0 or step == recipe.num_steps:
            spent = time.perf_counter() - started
            left = spent / step * (recipe.num_steps - step)
            report(f"toy ddpm: step {step}/{recipe.num_steps}, loss {loss.item():.4f}, about {left:.0f} s left")
    average.copy_to(unet.parameters())
    DDPMPipeline(unet, scheduler).save_pretrained(str(directory))
    return {
        "num_parameters": sum(parameter.numel() for parameter in unet.parameters()),
        "loss": round(loss.item(), 4),
        "seconds": round(time.perf_counter() - started, 1),
    }


def unlabelled(recipe: DiffusionRecipe) -> np.ndarray:
    """Pictures of unlabelled scenes, uint8 (num_images, 3, 48, 48)."""
    numbers = range(FIRST_SCENE, FIRST_SCENE + recipe.num_images)
    scenes = (make_scene(recipe.seed, "unlabelled", number) for number in numbers)
    return np.stack([render(scene, CAMERAS[recipe.camera]).transpose(2, 0, 1) for scene in scenes])
