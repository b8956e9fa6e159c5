"""Models and tokenised text that several experiments of one process share: each is loaded once."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from defenses.models.encoder import SentenceEncoder
from defenses.models.llm import LLM, load_llm
from defenses.pipeline.corpus import Corpus, load_corpus


class Loaded:
    """Loads on first use and keeps what it loaded for as long as it lives.

    Args:
        device: Where LLMs go; None for a GPU where there is one.
        dtype: Their number format; None for the device's own.
    """

    def __init__(self, device: str | None = None, dtype: str | None = None) -> None:
        self._device, self._dtype = device, dtype
        self._kept: dict[Hashable, Any] = {}

    def llm(self, name: str) -> LLM:
        """A frozen LLM.

        Raises:
            UserError: it cannot be loaded.
        """
        return self._once(("llm", name), lambda: load_llm(name, device=self._device, dtype=self._dtype))  # type: ignore[no-any-return]  # as it was put in

    def encoder(self, name: str) -> SentenceEncoder:
        """A sentence encoder.

        Raises:
            UserError: it cannot be loaded.
        """
        return self._once(("encoder", name), lambda: SentenceEncoder(name))  # type: ignore[no-any-return]  # as above

    def corpus(self, model: str, sources: Sequence[str], length: int, *, pack: bool = False) -> Corpus:
        """Windows of text under a model's tokenizer.

        Raises:
            UserError: a source cannot be read, or the model cannot be loaded.
        """
        key = ("corpus", model, *sources, length, pack)
        return self._once(key, lambda: load_corpus(self.llm(model), sources, length, pack=pack))  # type: ignore[no-any-return]  # as above

    def _once(self, key: Hashable, load: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = load()
        return self._kept[key]
