"""Which rows of the tables a step may change (AdaFEST: Ghazi et al. 2023, "Sparsity-Preserving Differentially Private
Training of Large Embedding Models").

Noise on every row would change a whole table in each step, mostly for rows that nobody in the sample touched. So a
noisy count of who touches a row decides first, and only the rows above a threshold get their gradient, with noise.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from training.privacy.randomness import Randomness


def selected_rows(
    touched: Mapping[str, Tensor], noise: float, threshold: float, randomness: Randomness
) -> dict[str, Tensor]:
    """Numbers of the rows that are changed, by table.

    Args:
        touched: table → (rows,), a sum over users of parts whose norm over all tables is at most 1.
        noise: standard deviation of the noise on it.
        threshold: what the noisy sum must reach, in the same standard deviations; so the share of untouched rows that
            are changed does not depend on the noise. With `noise` 0, every touched row.
    """
    found = {}
    for name, amounts in touched.items():
        if noise:
            noisy = rounded(amounts, noise, randomness)
            found[name] = (noisy >= threshold * noise).nonzero().squeeze(1)
        else:
            found[name] = amounts.nonzero().squeeze(1)
    return found


def rounded(amounts: Tensor, deviation: float, randomness: Randomness) -> Tensor:
    """The amounts with normal noise, added in float64 and rounded once.

    Noise that is rounded to float32 and then added leaves low bits by which a sum with a user differs from one without.
    """
    noise = torch.from_numpy(randomness.normal(amounts.numel())).view(amounts.shape)
    return (amounts.double() + deviation * noise).to(amounts.dtype)
