"""DEL-tuned against plain DEL at equal exact epsilon: every improvement alone, and all together.

The choice (projection, n, decoder, soft prompt, split) falls on public validation windows, the figures come from test
windows of other text. The choice is by successive halving (Karnin, Koren, Somekh 2013; Jamieson and Talwalkar 2016):
every setting on a few windows, the best on all of them. What the strongest attacks read stands beside the utility:
whatever lets the server make more of a view lets an adversary do so too, and the server is the adversary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from audit.adversaries import token_adversaries
from audit.composition import compare_noise
from audit.inversion import figures, invert
from audit.measures import Pairs, Scores, agreement, perplexity, perplexity_ratio
from audit.tuning_scores import Bench, Setting
from audit.utility import repeated
from defenses.baselines.del_tuned import Decoder, DelTuned
from defenses.budget import Split, ratio_for_prompt
from defenses.errors import UserError
from defenses.privacy.binomial import a_over_c_for_epsilon

Row = dict[str, Any]
DECODERS: tuple[Decoder, ...] = ("linear", "posterior-mean", "posterior-mode")
SPLITS: tuple[tuple[tuple[int, ...], tuple[float, ...]], ...] = (
    ((16,), (1.5, 1.0)), ((16,), (2.5, 1.0)), ((32,), (1.5, 1.0)),
)  # fmt: skip
PLAIN, PROMPTED, ALL, SPLIT = "plain DEL", "soft prompt", "all together", "all, budget split"


@dataclass(frozen=True)
class Tuning:
    """What is tuned.

    Attributes:
        epsilons: Exact epsilons, each tuned for itself.
        delta: At which they hold.
        tokens: They are of whole prompts of so many tokens; None: of one token.
        projections: To choose among; empty takes every one there is.
        bits: n to choose among.
        reference: Projection and n of plain DEL.
        screen: Validation windows on which every setting is tried.
        finalists: How many of each family go on to all of them.
        draws: Draws of coins on the test windows.
        attacks: Adversaries that read plain and tuned DEL.
    """

    epsilons: tuple[float, ...]
    delta: float = 1e-5
    tokens: int | None = None
    projections: tuple[str, ...] = ()
    bits: tuple[int, ...] = (1, 2, 4, 8)
    reference: tuple[str, int] = ("d128-plain", 4)
    screen: int = 4
    finalists: int = 3
    draws: int = 3
    attacks: tuple[str, ...] = ("prior", "cosine", "map", "hmm")

    def __post_init__(self) -> None:
        if not self.epsilons or not all(0 < epsilon < np.inf for epsilon in self.epsilons):
            raise UserError("--epsilon: give one or more finite numbers above 0")
        if not 0 < self.delta < 1:
            raise UserError(f"--delta {self.delta:g} is out of range: give a number strictly between 0 and 1")
        if not self.bits or not all(1 <= n <= 8 for n in self.bits):
            raise UserError("--bits: give numbers of 1 to 8, for example 1,2,4,8")
        for name in ("screen", "finalists", "draws"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.tokens is not None and self.tokens < 1:
            raise UserError(f"--tokens {self.tokens}: at least 1")


@dataclass(frozen=True)
class Tuned:
    """What a tuning found.

    Attributes:
        rows: One for each condition of each epsilon, in the order of the ablation.
        choices: Every setting that was tried, with its perplexity on how many validation windows.
    """

    rows: list[Row]
    choices: list[Row]


def tune(bench: Bench, plan: Tuning) -> Tuned:
    """Choose on public text, report on test text.

    Args:
        bench: Model and texts.
        plan: What is tuned.

    Raises:
        UserError: an epsilon cannot be met by the reference, a name is unknown, or there is too little text.
    """
    adversaries = token_adversaries(plan.attacks)  # a mistake is found before the first long computation
    names = plan.projections or tuple(bench.projections())
    for name in (*names, plan.reference[0]):
        bench.assets(name)
    _ = bench.test
    found = Tuned([], [])
    for epsilon in plan.epsilons:
        choice = _Choice(bench, plan, epsilon, names)
        settings = choice.ablation()
        found.choices.extend(choice.tried)
        found.rows.extend(_Ablation(bench, plan, epsilon, adversaries).rows(settings))
    return found


class _Choice:
    """The settings of one epsilon, chosen on validation windows."""

    def __init__(self, bench: Bench, plan: Tuning, epsilon: float, names: Sequence[str]) -> None:
        self.bench, self.plan, self.epsilon, self.names = bench, plan, epsilon, names
        self.tried: list[Row] = []
        keep = np.linspace(0, bench.validation.n - 1, min(plan.screen, bench.validation.n)).round().astype(int)
        mask = np.isin(np.arange(bench.validation.n), keep)
        self.few, self.all = bench.validation.part(mask), bench.validation

    def ratio(self, projection: str, n: int) -> float | None:
        """The smallest A/c that keeps epsilon; None where every A/c does, which is no quantizer to compare with."""
        d = self.bench.assets(projection).needed_projection().d
        try:
            return a_over_c_for_epsilon(self.epsilon, self.plan.delta, n, d, self.plan.tokens or 1)
        except UserError:
            return None

    def plain(self) -> Setting:
        """The paper's way at this epsilon.

        Raises:
            UserError: its epsilon is met by any noise.
        """
        name, n = self.plan.reference
        ratio = self.ratio(name, n)
        if ratio is None:
            raise UserError(f"--epsilon {self.epsilon:g} is met by every A/c at {name}, n = {n}: ask for a smaller one")
        return Setting(name, n, ratio)

    def candidates(self) -> list[Setting]:
        """Every combination of projection, n, decoder, and of a soft prompt where one was trained on the projection."""
        found = []
        for name in self.names:
            for n in self.plan.bits:
                ratio = self.ratio(name, n)
                if ratio is None:
                    continue
                bare = [Setting(name, n, ratio, decoder) for decoder in DECODERS]
                found += bare
                if self.bench.has_prompt(name):
                    found += [replace(one, soft_prompt=True) for one in bare]
        return found

    def ablation(self) -> dict[str, Setting]:
        """Label -> setting, plain DEL first."""
        plain, candidates = self.plain(), self.candidates()
        screened = self._scored(candidates, self.few, "screen")
        best = self._best
        objective = {name: self.bench.assets(name).needed_projection().objective for name in self.names}
        found = {PLAIN: plain, "nominal accounting": self._nominal(plain)}
        found["d and n"] = best(screened, lambda one: _is_plain(one) and objective[one.projection] == "plain", plain)
        found["noise-aware projection"] = self._noise_aware(plain, objective)
        found[PROMPTED] = replace(plain, soft_prompt=True)
        found["posterior mean"] = replace(plain, decoder="posterior-mean")
        found["posterior mode"] = replace(plain, decoder="posterior-mode")
        found["split budget"] = self._split(plain)
        found["all but the soft prompt"] = best(screened, lambda one: not one.soft_prompt, plain)
        found[ALL] = best(screened, lambda _: True, plain)
        found[SPLIT] = self._split(found[ALL])
        return found

    def _best(
        self, screened: Mapping[Setting, float], family: Callable[[Setting], bool], otherwise: Setting
    ) -> Setting:
        """The best of a family on all validation windows, among its best on the first few."""
        members = sorted((one for one in screened if family(one)), key=lambda one: screened[one])
        if not members:
            return otherwise
        final = self._scored(members[: self.plan.finalists], self.all, "choice")
        return min(final, key=lambda one: final[one])

    def _nominal(self, plain: Setting) -> Setting:
        """Plain DEL whose A inverts the nominal mu-GDP curve at the same (epsilon, delta)."""
        d = self.bench.assets(plain.projection).needed_projection().d
        noise = compare_noise(self.epsilon, self.plan.delta, plain.n, d, self.plan.tokens or 1)
        return plain if noise.A_over_c_nominal is None else replace(plain, a_over_c=noise.A_over_c_nominal)

    def _noise_aware(self, plain: Setting, objective: Mapping[str, str]) -> Setting:
        """Plain DEL on the noise-aware projection of the same width; itself where there is none."""
        d = self.bench.assets(plain.projection).needed_projection().d
        for name in self.names:
            if objective[name] == "noise-aware" and self.bench.assets(name).needed_projection().d == d:
                return replace(plain, projection=name)
        return plain

    def _split(self, setting: Setting) -> Setting:
        """The best split of the same exact epsilon of the whole scored prompt, the uniform one left out."""
        d, length = self.bench.assets(setting.projection).needed_projection().d, self.bench.data.prefix_tokens
        whole = setting.defense(self.bench.assets(setting.projection)).prompt_profile(length).epsilon(self.plan.delta)
        splits = []
        for recent, weights in SPLITS:
            if recent[0] < length:
                ratio = ratio_for_prompt(
                    Split(recent, weights), whole, self.plan.delta, n=setting.n, d=d, tokens=length
                )
                splits.append(replace(setting, a_over_c=ratio, recent=recent, weights=weights))
        if not splits:
            return setting
        scored = self._scored(splits, self.all, "split")
        return min(scored, key=lambda one: scored[one])

    def _scored(self, settings: Sequence[Setting], pairs: Pairs, stage: str) -> dict[Setting, float]:
        """Perplexity of each setting, which is kept for the record."""
        found = {}
        for one in tqdm(settings, unit="setting", desc=f"epsilon {self.epsilon:g}: {stage}", leave=False):
            found[one] = float(np.exp(self.bench.score(one, pairs).nll.mean()))
            self.tried.append(
                {
                    "epsilon_target": self.epsilon, "stage": stage, "windows": pairs.n, "perplexity": found[one],
                    **_described(one, self.bench),
                }
            )  # fmt: skip
        return found


class _Ablation:
    """Figures of one epsilon on the test windows."""

    def __init__(self, bench: Bench, plan: Tuning, epsilon: float, adversaries: Sequence[Any]) -> None:
        self.bench, self.plan, self.epsilon, self.adversaries = bench, plan, epsilon, adversaries
        self.many = repeated(bench.test, plan.draws)
        self.clean = bench.clean(bench.test).repeated(plan.draws)

    def rows(self, settings: Mapping[str, Setting]) -> list[Row]:
        """One row for each condition, the floors and the undefended prompt last."""
        found = []
        bases = {  # the paper's server has a soft prompt; what its pipeline gives without one is the simpler yardstick
            over: self.bench.score(settings[label], self.bench.test, self.plan.draws)
            for over, label in (("over_plain", PLAIN), ("over_prompted", PROMPTED))
        }
        for label, setting in tqdm(settings.items(), unit="row", desc=f"epsilon {self.epsilon:g}: test", leave=False):
            scores = self.bench.score(setting, self.bench.test, self.plan.draws)
            row = self._figures(label, scores, bases) | self._over_nothing(scores, setting)
            row |= _described(setting, self.bench) | self._privacy(setting)
            if label in {PLAIN, ALL}:
                row |= self._read(setting)
            found.append(row)
        floors = {
            "nothing sent": self.bench.floor(self.bench.test),
            "nothing sent, soft prompt": self.bench.floor(self.bench.test, replace(settings[ALL], soft_prompt=True)),
        }
        for label, scores in floors.items():
            found.append(self._figures(label, scores.repeated(self.plan.draws), bases))
        found.append(self._figures("undefended", self.clean, bases))
        return found

    def _figures(self, label: str, scores: Scores, bases: Mapping[str, Scores]) -> Row:
        """Utility of one condition, with its paired ratios to plain DEL, without and with a soft prompt."""
        many, seed = self.many, self.bench.seed
        found: Row = {
            "defence": label, "epsilon_target": self.epsilon, "delta": self.plan.delta,
            "epsilon_of": "one token" if self.plan.tokens is None else f"a prompt of {self.plan.tokens} tokens",
            "windows": self.bench.test.n, "documents": len(np.unique(many.clusters)), "utility_seeds": self.plan.draws,
            "prefix_tokens": self.bench.data.prefix_tokens,
            "continuation_tokens": self.bench.data.continuation_tokens,
        }  # fmt: skip
        found |= perplexity("perplexity", scores, many, seed)
        for over, base in bases.items():
            found |= perplexity_ratio(over, scores, base, many, seed)
        found |= perplexity_ratio("perplexity_over_clean", scores, self.clean, many, seed)
        return found | agreement("agreement_top1", scores, self.clean, many, seed)

    def _over_nothing(self, scores: Scores, setting: Setting) -> Row:
        """Perplexity over that behind no prompt at all, with the same soft prompt: below 1 the view is of use."""
        floor = self.bench.floor(self.bench.test, setting).repeated(self.plan.draws)
        return perplexity_ratio("over_nothing", scores, floor, self.many, self.bench.seed)

    def _privacy(self, setting: Setting) -> Row:
        """Exact epsilons of one token, and of the whole scored prompt."""
        defense, delta = self._defense(setting), self.plan.delta
        prompt = defense.prompt_profile(self.plan.tokens or self.bench.data.prefix_tokens)
        return {
            "mu": defense.quantizer.mu,
            "epsilon_exact_token": defense.profile().epsilon(delta),
            "epsilon_exact_prompt": prompt.epsilon(delta),
            "body_bytes_up_per_token": setting.n * defense.projection.d / 8,
        }

    def _read(self, setting: Setting) -> Row:
        """What attacks read of the test prompts; they are fitted on the public text that frequencies come from."""
        bench, assets = self.bench, self.bench.assets(setting.projection)
        what = [asdict(setting), self.plan.attacks, self.plan.draws, bench.assets_hash(setting.projection)]

        def read() -> Row:
            found = invert(
                setting.defense(assets), self.adversaries, bench.frequency_windows[:, : bench.data.prefix_tokens],
                bench.test.prefix, seed=bench.seed, seeds=self.plan.draws, tools=bench.workbench.tools,
            )  # fmt: skip
            return figures(found, bench.workbench.prompts(bench.test))

        return bench.kept_row(what, read)

    def _defense(self, setting: Setting) -> DelTuned:
        return setting.defense(self.bench.assets(setting.projection))


def _is_plain(setting: Setting) -> bool:
    return setting.decoder == "linear" and not setting.soft_prompt


def _described(setting: Setting, bench: Bench) -> Row:
    """A setting as columns."""
    artifact = bench.prompt(setting)
    return {
        "projection": setting.projection, "d": bench.assets(setting.projection).needed_projection().d, "n": setting.n,
        "a_over_c": setting.a_over_c, "decoder": setting.decoder,
        "prompt_name": None if artifact is None else artifact.name,
        "split": "uniform" if not setting.recent else
        f"last {', '.join(map(str, setting.recent))} : rest = {' : '.join(f'{one:g}' for one in setting.weights)}",
    }  # fmt: skip
