"""What the conditions of an experiment share: model, prompts, auxiliary text, clean reference, cached projections."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attacks.base import LanguageModel, Tools
from audit.config import EMBEDDED, Condition, Experiment
from audit.loaded import Loaded
from audit.measures import Pairs, Scores, continuations, score
from audit.parts import Parts
from audit.provenance import code_digest, package_versions
from audit.recovery import Prompts
from audit.token_kinds import entity_positions, token_kinds
from audit.wire_measure import measure_wire
from defenses.base import Assets, Defense, Float32, Tokens
from defenses.data.text import digest, windows
from defenses.data.workload import make_workload
from defenses.errors import UserError
from defenses.models.assets import public_assets
from defenses.models.encoder import SentenceEncoder
from defenses.models.hidden import hidden_states
from defenses.models.language import CausalLanguageModel, MaskedLanguageModel
from defenses.models.llm import LLM
from defenses.pipeline.artifacts import DEL, PromptArtifact, find_projection, find_prompts, nearest_prompt
from defenses.pipeline.corpus import Corpus
from defenses.pipeline.defense import Del
from defenses.pipeline.engine import LLMEngine
from defenses.pipeline.generation import write_on
from defenses.pipeline.mechanism import Quantizer
from defenses.pipeline.prompt_training import load_prompt
from defenses.privacy.binomial import StochasticQuantizationProfile
from defenses.privacy.noise import a_over_c_for_mu
from defenses.registry import configuration, defenses, pick

AUXILIARY_SEED = 1_000_003  # the adversary's public text comes from other people than the victims


class Workbench:
    """Loads each thing once, on first use.

    Args:
        experiment: What is run.
        loaded: What it may share with other workbenches; None for models of its own.

    Raises:
        UserError: from any attribute, when what it needs cannot be had.
    """

    def __init__(self, experiment: Experiment, loaded: Loaded | None = None) -> None:
        self.experiment = experiment
        self._loaded = loaded or Loaded(experiment.device, experiment.dtype)
        self._assets: dict[str | None, Assets] = {}
        self._engines: dict[str, LLMEngine] = {}
        self._wire: dict[tuple[str, int], dict[str, float]] = {}
        self._root = None if experiment.artifacts is None else Path(experiment.artifacts)

    @cached_property
    def code(self) -> str:
        """A hash over the code and the packages that measure."""
        return hashlib.sha256(json.dumps([code_digest(), package_versions()]).encode()).hexdigest()

    @cached_property
    def llm(self) -> LLM:
        """The frozen LLM."""
        return self._loaded.llm(self.experiment.model)

    @cached_property
    def encoder(self) -> SentenceEncoder:
        """The sentence encoder of coherence."""
        return self._loaded.encoder(self.experiment.encoder)

    @cached_property
    def corpus(self) -> Corpus:
        """Every window of the victims' text."""
        data = self.experiment.data
        if data.source == EMBEDDED:
            return self._embedded(self.experiment.seed, data.length)
        return self._loaded.corpus(self.experiment.model, [data.source], data.length)

    @cached_property
    def pairs(self) -> Pairs:
        """The windows that are scored, spread evenly over the documents."""
        return _cut(self.corpus, self.experiment.data.windows, self.experiment.data.prefix_tokens)

    @cached_property
    def attacked(self) -> Pairs:
        """The prompts that are attacked: enough of them for the asked number of tokens."""
        data = self.experiment.data
        count = -(-data.attack_tokens // data.prefix_tokens)
        victims = _cut(self.corpus, count, data.prefix_tokens)
        if data.source != EMBEDDED or not self.llm.tokenizer.is_fast:
            return victims
        return replace(victims, entities=_cut(self._private, count, data.prefix_tokens).prefix.astype(np.bool_))

    @cached_property
    def _private(self) -> Corpus:
        """Which tokens of the embedded prompts hold a private value, as windows that stand where the corpus's do."""
        spans = [entity_positions(prompt, self.llm.tokenizer) for prompt in make_workload(seed=self.experiment.seed)]
        rows, owner = windows([span.astype(np.int64) for span in spans], self.experiment.data.length)
        return Corpus(rows, owner, ())

    @cached_property
    def auxiliary(self) -> Corpus:
        """Public text that the adversary has."""
        sources = self.experiment.data.auxiliary
        if not sources:
            return self._embedded(self.experiment.seed + AUXILIARY_SEED, self.experiment.data.prefix_tokens)
        return self._loaded.corpus(self.experiment.model, sources, self.experiment.data.prefix_tokens, pack=True)

    @cached_property
    def clean_prefixes(self) -> Float32:
        """E of the scored prefixes, (N, P, b): plain split inference."""
        return self.llm.embedding[self.pairs.prefix]

    @property
    def shows_text(self) -> bool:
        """Whether prompts and answers may stand in a record: the package's own may, a user's where they said so."""
        return self.experiment.data.source == EMBEDDED or self.experiment.data.show_text

    def share_reference(self, parts: Parts, key: str) -> None:
        """Have the clean model's scores and continuations made once by all workers that share a folder.

        Args:
            parts: The folder.
            key: A hash of all that they depend on.
        """
        if "clean" in self.__dict__:
            return
        scores, texts = f"{key}-scores", f"{key}-texts"
        makes: dict[str, Callable[[], dict[str, Any]]] = {
            scores: lambda: {name: values.tolist() for name, values in vars(self.clean).items()}
        }
        if self.shows_text:  # nobody else asks for them
            makes[texts] = lambda: {"texts": self.clean_generations}
        found = parts.shared(makes)
        self.clean = Scores(np.array(found[scores]["nll"], dtype=np.float64), np.array(found[scores]["top1"]))
        if self.shows_text:
            self.clean_generations = list(found[texts]["texts"])

    @cached_property
    def clean(self) -> Scores:
        """The clean model's scores, the reference of agreement."""
        return score(self.llm, self.pairs, self.clean_prefixes, None)

    @cached_property
    def clean_generations(self) -> list[str]:
        """The clean model's own continuations."""
        count = min(self.experiment.data.generations, self.pairs.n)
        return continuations(self.llm, self.clean_prefixes[:count], None, self.experiment.data.continuation_tokens)

    @cached_property
    def truths(self) -> list[str]:
        """The true continuations of the generated prompts."""
        count = min(self.experiment.data.generations, self.pairs.n)
        return [str(self.llm.tokenizer.decode(row)) for row in self.pairs.continuation[:count]]

    def writer(self, texts: Sequence[str], tokens: int) -> list[str]:
        """The local model of the clients that have one: greedy continuations of texts."""
        return write_on(self._local_llm, texts, tokens)

    @cached_property
    def _local_llm(self) -> LLM:
        name = self.experiment.local_model
        return self.llm if name is None else self._loaded.llm(name)

    def text_features(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """The LLM's last block at the last position of each text, (N, h): what MAUVE compares."""
        states, blocks = hidden_states(self.llm), self.llm.model.config.get_text_config().num_hidden_layers
        rows = [np.array([self.llm.tokenize(text) or [0]], dtype=np.int64) for text in texts]
        return np.stack([states(row, blocks)[0, -1] for row in rows]).astype(np.float64)

    @cached_property
    def true_features(self) -> NDArray[np.float64]:
        """The same of the true continuations."""
        return self.text_features(self.truths)

    @cached_property
    def tools(self) -> Tools:
        """What adversaries bring along: the public LLM itself serves as their language model."""
        return Tools(
            language_model=lambda: self._language_model,
            masked_model=None if self.experiment.masked_model is None else lambda: self._masked_model,
            seed=self.experiment.seed,
        )

    @cached_property
    def _masked_model(self) -> LanguageModel:
        return MaskedLanguageModel(str(self.experiment.masked_model), self.llm)

    @cached_property
    def _language_model(self) -> LanguageModel:
        return CausalLanguageModel(self.llm)

    def prompts(self, victims: Pairs) -> Prompts:
        """Attacked prompts as the statistics of recovery want them."""
        tokenizer = self.llm.tokenizer
        return Prompts(
            victims.prefix,
            victims.clusters,
            decode=lambda row: str(tokenizer.decode(row)),
            kinds=token_kinds(victims.prefix, tokenizer, victims.entities),
            seed=self.experiment.seed,
        )

    def assets(self, projection: str | None) -> Assets:
        """Public assets with one projection."""
        if projection not in self._assets:
            model, fingerprint = self.experiment.model, self.llm.fingerprint
            counts = np.bincount(self.auxiliary.windows.ravel(), minlength=len(self.llm.embedding))
            base = replace(public_assets(self.llm, None, counts), model=model)
            if projection is not None:
                base = replace(base, projection=find_projection(model, fingerprint, projection, self._root))
            self._assets[projection] = base
        return self._assets[projection]

    def defense(self, condition: Condition) -> Defense[Any]:
        """The configured defence of one condition."""
        plugin = pick(defenses(), condition.defense, "defence")
        config = configuration(plugin, condition.parameters)
        return plugin(config, self.assets(condition.projection))  # type: ignore[no-any-return]  # plug-ins are loaded by name

    def prompt(self, condition: Condition, defense: Defense[Any]) -> tuple[str | None, torch.Tensor | None]:
        """The soft prompt that a condition asks for: its name and vectors (m, b).

        The nearest one was trained behind this very defence and projection. A defence that sends noisy latents and has
        none of its own gets the one that was trained behind DEL on the same projection at the nearest exact epsilon:
        what a prompt learns is to read through so much noise.

        Raises:
            UserError: a prompt is asked for by name and there is none of that name.
        """
        if condition.soft_prompt == "none":
            return None, None
        if condition.soft_prompt.startswith("prompt-"):
            return condition.soft_prompt, load_prompt(self._named_prompt(condition))
        if condition.soft_prompt == "clean":
            chosen = next((one for one in self.soft_prompts(condition.projection) if one.n == 0), None)
        else:
            chosen = self._nearest_prompt(condition, defense)
        return (None, None) if chosen is None else (chosen.name, load_prompt(chosen.folder))

    def check(self, condition: Condition) -> None:
        """Check every name and parameter of a condition before anything long is computed.

        Raises:
            UserError: one is.
        """
        self.defense(condition)
        if condition.soft_prompt.startswith("prompt-"):
            self._named_prompt(condition)

    def _named_prompt(self, condition: Condition) -> Path:
        there = {one.name: one for one in (*self.soft_prompts(condition.projection), *self.own_prompts(condition))}
        if condition.soft_prompt not in there:
            offer = ", ".join(there) or "none"
            raise UserError(f"soft_prompt {condition.soft_prompt!r}: not there for {condition.label}; there is {offer}")
        return there[condition.soft_prompt].folder

    def _nearest_prompt(self, condition: Condition, defense: Defense[Any]) -> PromptArtifact | None:
        if isinstance(defense, Del):
            return nearest_prompt(self.soft_prompts(condition.projection), defense.config.n, defense.quantizer.mu)
        own = self.own_prompts(condition)
        if own and defense.privacy_parameter is not None:
            return nearest_prompt(own, 0, float(getattr(defense.config, defense.privacy_parameter) or np.inf))
        return self._borrowed_prompt(condition.projection, defense)

    def _borrowed_prompt(self, projection: str | None, defense: Defense[Any]) -> PromptArtifact | None:
        """DEL's at the nearest exact epsilon, for noise on the latents of the same projection."""
        code, delta = self.assets(projection).projection, self.experiment.delta
        noisy = [one for one in self.soft_prompts(projection) if one.n]
        if code is None or not noisy or defense.latent_table().shape[1] != code.d:
            return None
        worst = defense.worst_case()
        if worst is None:
            return None
        epsilon = worst.epsilon(delta)
        if not 0 < epsilon < np.inf:
            return None
        gaps = [abs(np.log(_exact_epsilon(one.n, code.d, one.mu, delta) / epsilon)) for one in noisy]
        return noisy[int(np.argmin(gaps))]

    def soft_prompts(self, projection: str | None) -> list[PromptArtifact]:
        """Every prompt trained behind DEL on a projection."""
        return [] if projection is None else self._prompts(projection, DEL)

    def own_prompts(self, condition: Condition) -> list[PromptArtifact]:
        """Every prompt trained behind this condition's defence, where that is not DEL."""
        return [] if condition.defense == DEL else self._prompts(condition.projection, condition.defense)

    def _prompts(self, projection: str | None, defense: str) -> list[PromptArtifact]:
        code = self.assets(projection).projection
        name = None if code is None else code.name
        return find_prompts(self.experiment.model, self.llm.fingerprint, name, self._root, defense=defense)

    def engine(self, projection: str) -> LLMEngine:
        """A server's engine on this model and projection."""
        if projection not in self._engines:
            code = self.assets(projection).needed_projection()
            self._engines[projection] = LLMEngine(self.llm, code, self.soft_prompts(projection))
        return self._engines[projection]

    def wire(self, projection: str, quantizer: Quantizer) -> dict[str, float]:
        """Bytes and seconds over a real socket; they depend on n and d alone, so each is measured once."""
        key = (projection, quantizer.n)
        if key not in self._wire:
            count, tokens = self.experiment.wire_prompts, self.experiment.data.continuation_tokens
            texts = [str(self.llm.tokenizer.decode(row)) for row in self.pairs.prefix[:count]]
            self._wire[key] = measure_wire(self.engine(projection), quantizer, texts, max_new_tokens=tokens)
        return self._wire[key]

    def _embedded(self, seed: int, length: int) -> Corpus:
        """Windows of the package's own workload; a cluster is a user."""
        prompts = make_workload(seed=seed)
        texts = [prompt.text for prompt in prompts]
        rows, owner = windows([self.llm.tokenize(text) for text in texts], length)
        if not len(rows):
            raise UserError(f"no embedded prompt has {length} tokens: lower data.prefix_tokens")
        users = np.array([prompt.user for prompt in prompts], dtype=np.int64)[owner]
        facts = {"name": f"embedded workload, seed {seed}", "sha256": digest(texts), "documents": len(texts)}
        return Corpus(rows, users, (facts,))


def _exact_epsilon(n: int, d: int, mu: float, delta: float) -> float:
    """Of one token behind DEL."""
    return StochasticQuantizationProfile.of(n, d, a_over_c_for_mu(mu, n, d)).epsilon(delta)


def _cut(corpus: Corpus, count: int, prefix: int) -> Pairs:
    """`count` windows spread evenly, cut into prefix and continuation."""
    total = len(corpus.windows)
    keep = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))
    rows: Tokens = corpus.windows[keep]
    return Pairs(rows[:, :prefix], rows[:, prefix:], corpus.clusters[keep])
