"""Forward diffusion noise on the normalised image: the augmentation of the released SeVa models.

x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, eps ~ N(0, I), alpha_bar_t = prod_{s<=t} (1 - beta_s), with the
sigmoid schedule of `diffusers.DDPMScheduler(1000, beta_schedule="sigmoid", beta_start=1e-5, beta_end=5e-3)`.
Source: SeVa (arXiv 2404.10501) section 3.2; schedule of the official code at d9284ff.

Two other schedules have views of their own, with the defaults of diffusers: `diffusion_linear-<step>` (DDPM, arXiv
2006.11239, section 4) and `diffusion_cosine-<step>` (arXiv 2102.09672, equation 17).
"""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np

from seva_ray.augmentations.base import PixelAugmentation, dial

NUM_NOISE_STEPS = 1000


@cache
def alpha_bar() -> np.ndarray:
    """Share of the signal power that is left at each noise step, float32 (1000,).

    Every 1 - beta is rounded to float32 as in torch, so that the schedule equals that of diffusers bit for bit. In
    double precision, sigma would differ from it by up to 5e-6.
    """
    beta = (5e-3 - 1e-5) / (1 + np.exp(-np.linspace(-6, 6, NUM_NOISE_STEPS))) + 1e-5
    return share_left(beta.astype(np.float32))


def share_left(beta: np.ndarray) -> np.ndarray:
    return np.cumprod(np.float32(1) - beta, dtype=np.float64).astype(np.float32)


@cache
def linear_alpha_bar() -> np.ndarray:
    """The same as `alpha_bar` for `diffusers.DDPMScheduler(1000, beta_schedule="linear")`: beta is 1e-4 to 0.02."""
    return share_left(np.linspace(1e-4, 0.02, NUM_NOISE_STEPS, dtype=np.float32))


@cache
def cosine_alpha_bar() -> np.ndarray:
    """The same as `alpha_bar` for `diffusers.DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2")`."""
    at = np.cos((np.arange(NUM_NOISE_STEPS + 1) / NUM_NOISE_STEPS + 0.008) / 1.008 * np.pi / 2) ** 2
    return share_left(np.minimum(1 - at[1:] / at[:-1], 0.999).astype(np.float32))


@dataclass(frozen=True, kw_only=True)
class Diffusion(PixelAugmentation):
    """Adds the noise of one step of the forward diffusion process."""

    kind: ClassVar[str] = "Diffusion"
    schedule = staticmethod(alpha_bar)

    noise_step: int = dial(low=0, high=NUM_NOISE_STEPS - 1)
    """Index into the schedule, 0 to 999. Step 0 already has some noise. The released models use 500 and 800."""

    def pixels(self, pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """The noisy pixels. They are neither clipped nor rounded to 8 bits, because both would change the answers."""
        signal = self.schedule()[self.noise_step]
        noise = generator.standard_normal(pixels.shape, dtype=np.float32)
        noise *= np.sqrt(1 - signal)  # in place: the arrays are large
        noise += np.sqrt(signal) * pixels
        return noise


@dataclass(frozen=True, kw_only=True)
class DiffusionLinear(Diffusion):
    """The same with the linear schedule, which at the same step has more noise than SeVa's."""

    kind: ClassVar[str] = "DiffusionLinear"
    schedule = staticmethod(linear_alpha_bar)


@dataclass(frozen=True, kw_only=True)
class DiffusionCosine(Diffusion):
    """The same with the cosine schedule, whose noise grows most evenly."""

    kind: ClassVar[str] = "DiffusionCosine"
    schedule = staticmethod(cosine_alpha_bar)
