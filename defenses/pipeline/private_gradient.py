"""One DP-SGD gradient of a soft prompt: Poisson sample, per-example clip, sum, Gaussian noise (Abadi et al. 2016).

Opacus clips and sums. Its noise comes from a numpy generator, as all noise here does. What is privatised is the sum
over the batch and not its mean, so nothing depends on the number of examples; AdamW does not see the scale.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.grad_sample import register_grad_sampler
from opacus.optimizers import DPOptimizer

from defenses.errors import UserError
from defenses.models.llm import LLM
from defenses.randomness import seeded_rng, service_rng

Coins = Literal["service", "seeded"]


@dataclass(frozen=True)
class DpSettings:
    """DP-SGD's own knobs.

    Attributes:
        noise_multiplier: sigma; the noise on the summed gradient has standard deviation sigma C a coordinate.
        sample_rate: q; each example takes part in a step by a coin of its own.
        clip: C, the largest l2 norm of one example's gradient over all m b coordinates.
        physical_batch: Examples that go through the LLM at once; changes memory and speed alone.
        coins: "service": sample and noise from AES-128-CTR under a fresh system key at every step. "seeded": named
            by the seed, the data and the step, for experiments; who knows the seed can take the noise off.

    Raises:
        UserError: a value is out of range.
    """

    noise_multiplier: float
    sample_rate: float
    clip: float = 1.0
    physical_batch: int = 8
    coins: Coins = "service"

    def __post_init__(self) -> None:
        if not 0 < self.noise_multiplier < math.inf:
            raise UserError(f"--noise-multiplier {self.noise_multiplier}: must be positive and finite")
        if not 0 < self.sample_rate <= 1:
            raise UserError(f"--sample-rate {self.sample_rate}: must be in (0, 1]")
        if not 0 < self.clip < math.inf:
            raise UserError(f"--clip {self.clip}: must be positive and finite")
        if self.physical_batch < 1:
            raise UserError(f"--physical-batch {self.physical_batch}: at least one")
        if self.coins not in {"service", "seeded"}:
            raise UserError(f"--coins {self.coins}: must be service or seeded")


class PromptTable(torch.nn.Module):
    """The soft prompt as a layer: its vectors (m, b), once for each example of a batch.

    Each example has its own copy, so the gradient at a copy is that example's gradient.
    """

    def __init__(self, start: torch.Tensor) -> None:
        super().__init__()
        self.vectors = torch.nn.Parameter(start.clone())

    def forward(self, anchors: torch.Tensor) -> torch.Tensor:
        """Give one copy per anchor: (B, 1, 1), zeros that need a gradient, for torch calls hooks on none other."""
        return self.vectors + anchors


@register_grad_sampler(PromptTable)  # type: ignore[untyped-decorator]  # opacus ships no types
def _gradients_of_copies(
    layer: PromptTable,
    activations: list[torch.Tensor],  # noqa: ARG001 - opacus' signature
    backprops: torch.Tensor,
) -> dict[torch.nn.Parameter, torch.Tensor]:
    """Per-example gradients (B, m, b): those at the copies. One that is not finite counts as zero, which is clipped."""
    finite = torch.isfinite(backprops).all(dim=(1, 2), keepdim=True)
    return {layer.vectors: torch.where(finite, backprops, 0.0)}


class NumpyNoiseOptimizer(DPOptimizer):  # type: ignore[misc]  # opacus ships no types
    """Opacus' clipping and summing, with the noise of a numpy generator.

    Attributes:
        rng: The noise of the next step; set anew for every step.
    """

    rng: np.random.Generator

    def add_noise(self) -> None:
        """Add N(0, (sigma C)^2) to each coordinate of the clipped sum.

        Half the sum of four draws hides the grid of floating-point normals (Holohan and Braghin 2021, section 5.1).
        """
        for value in self.params:
            draws = self.rng.standard_normal((4, *value.shape)).sum(axis=0) / 2
            noise = torch.from_numpy(draws * self.noise_multiplier * self.max_grad_norm)
            value.grad = (value.summed_grad.double() + noise.to(value.device)).to(value.dtype)


@dataclass(frozen=True, eq=False)
class Examples:
    """Training examples of one step, ready for the LLM.

    Attributes:
        prefix: Input embeddings of the restored prefixes, (B, P, b).
        continuation: Token ids, (B, S).
    """

    prefix: torch.Tensor
    continuation: torch.Tensor

    def parts(self, size: int) -> "list[Examples]":
        """Cut into parts of `size` examples; of no examples there is one empty part."""
        starts = range(0, max(1, len(self.continuation)), size)
        return [Examples(self.prefix[i : i + size], self.continuation[i : i + size]) for i in starts]


def example_nll(llm: LLM, examples: Examples, prompts: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood (nats) of each continuation, (B,), each behind its own prompt (B, m, b)."""
    table = llm.model.get_input_embeddings()
    continuation = examples.continuation
    parts = [prompts, examples.prefix, table(continuation[:, :-1])]
    embeds = torch.cat([part.to(table.weight.dtype) for part in parts], dim=1)
    logits = llm.model(inputs_embeds=embeds, logits_to_keep=continuation.shape[1], use_cache=False).logits.float()
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), continuation, reduction="none").mean(dim=1)


class PrivateGradient:
    """Privatised gradients of one soft prompt, one a step.

    Args:
        llm: The frozen LLM.
        settings: DP-SGD's knobs.
        start: The prompt's vectors before the first step, (m, b): public.
        seed: Names the seeded coins.
        origin: What this run is (data, model, settings), hashed: two runs never share noise, whatever their seeds.
    """

    optimizer: ClassVar[type[NumpyNoiseOptimizer]] = NumpyNoiseOptimizer

    def __init__(self, llm: LLM, settings: DpSettings, start: torch.Tensor, seed: int, origin: str) -> None:
        self.llm = llm
        self.settings = settings
        self.table = PromptTable(start)
        self._copies = GradSampleModule(self.table, loss_reduction="sum")
        self._seed, self._origin = seed, origin
        self._privatiser = self.optimizer(
            torch.optim.SGD(self.table.parameters(), lr=0.0),
            noise_multiplier=settings.noise_multiplier,
            max_grad_norm=settings.clip,
            expected_batch_size=None,
            loss_reduction="sum",
        )

    def coins(self, step: int) -> np.random.Generator:
        """The secret randomness of one step: sample, quantizer and noise."""
        if self.settings.coins == "service":
            return service_rng()
        return seeded_rng(self._seed, "dp-sgd", self._origin, step)

    def sample(self, examples: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Poisson sample: the indices of those of `examples` whose coin of probability q fell."""
        return np.flatnonzero(rng.random(examples) < self.settings.sample_rate).astype(np.int64)

    def privatise(self, examples: Examples, rng: np.random.Generator) -> torch.Tensor:
        """Sum of clipped per-example gradients plus noise, (m, b); an empty batch gives noise alone."""
        self._privatiser.rng = rng
        self._privatiser.zero_grad(set_to_none=True)
        parts = examples.parts(self.settings.physical_batch)
        for place, part in enumerate(parts):
            more = place + 1 < len(parts)
            self._privatiser.signal_skip_step(do_skip=more)
            self._accumulate(part)
            self._privatiser.pre_step()
            if more:
                self._privatiser.zero_grad(set_to_none=True)  # keeps the sum, since a step was skipped
        vectors: Any = self.table.vectors
        gradient: torch.Tensor = vectors.grad.clone()
        vectors.grad, vectors.grad_sample, vectors.summed_grad = None, None, None
        return gradient

    def _accumulate(self, part: Examples) -> None:
        """Leave the per-example gradients of some examples where opacus looks for them."""
        vectors: Any = self.table.vectors
        count = len(part.continuation)
        if not count:
            vectors.grad_sample = vectors.detach().new_zeros((0, *vectors.shape))
            return
        anchors = torch.zeros((count, 1, 1), device=vectors.device, requires_grad=True)
        loss = example_nll(self.llm, part, self._copies(anchors)).sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships it untyped


def clipped_gradients(llm: LLM, examples: Examples, prompt: torch.Tensor, clip: float, batch: int) -> torch.Tensor:
    """Each example's gradient at a prompt (m, b), clipped to norm C: (B, m, b). What an adversary computes, too."""
    found = []
    for part in examples.parts(batch):
        copies = prompt.detach().expand(len(part.continuation), -1, -1).clone().requires_grad_()
        loss = example_nll(llm, part, copies).sum()
        gradients = torch.autograd.grad(loss, copies)[0]
        norms = gradients.flatten(1).norm(dim=1)
        found.append(gradients * (clip / norms).clamp(max=1.0)[:, None, None])
    return torch.cat(found)
