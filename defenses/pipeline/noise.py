"""The stochastic quantizer inside a training graph (torch); the client's own is in mechanism.py (numpy)."""

import torch


def quantize_straight_through(
    latents: torch.Tensor,
    *,
    n: int,
    a_over_c: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Clip, quantize and decode latents in units of c; the gradient passes as if no noise were added.

    Args:
        latents: v / c, any shape; clipped here to [-1, 1] (and the clip does cut the gradient).
        n: Bits per coordinate.
        a_over_c: A / c > 1.
        generator: The coins.

    Returns:
        v^ / c of the latents' shape: unbiased, with variance ((A/c)^2 - (v/c)^2) / (2^n - 1).
    """
    trials = 2**n - 1
    clipped = latents.clamp(-1.0, 1.0)
    with torch.no_grad():
        p = ((a_over_c + clipped.detach().float()) / (2 * a_over_c)).clamp(0.0, 1.0)
        counts = torch.binomial(torch.full_like(p, float(trials)), p, generator=generator)
        noise = a_over_c * (2 * counts / trials - 1) - clipped.detach()
    decoded: torch.Tensor = clipped + noise.to(clipped.dtype)
    return decoded
