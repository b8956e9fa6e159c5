"""Language models with numpy at the border: cache against one plain pass, masked models against a written-out loop."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from attacks.base import LanguageModel
from defenses.base import Float32, Tokens, Unavailable
from defenses.errors import UserError
from defenses.models.language import DEPARTURE, CausalLanguageModel, MaskedLanguageModel
from defenses.models.llm import LLM

TEXTS = np.random.default_rng(5).integers(0, 256, (3, 7))
ENTRIES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##b", "c", "word", "."]


def plain_pass(llm: LLM, tokens: Tokens) -> Float32:
    """Log-probabilities of the next token after each token, (B, T, V), by one pass without a cache."""
    with torch.no_grad():
        logits = llm.model(torch.as_tensor(tokens), use_cache=False).logits
    return torch.log_softmax(logits, -1).numpy()


def border(llm: LLM) -> int | None:
    """What stands before a text of the tiny models: the Llama's BOS; GPT-2's default lies outside V = 256."""
    found = llm.model.config.bos_token_id
    return found if found is not None and found < 256 else None


def test_conditionals_are_one_plain_pass(any_llm: LLM) -> None:
    """Every position is predicted from the border and what stands before it; without a border the first is uniform."""
    found = CausalLanguageModel(any_llm).conditionals(TEXTS)
    assert found.shape == (3, 7, 256)
    assert found.dtype == np.float32
    start = border(any_llm)
    if start is None:
        np.testing.assert_allclose(found[:, 0], -np.log(256), atol=1e-6)
        expected = plain_pass(any_llm, TEXTS)[:, :-1]
    else:
        whole = plain_pass(any_llm, np.hstack([np.full((3, 1), start), TEXTS]))
        np.testing.assert_allclose(found[:, 0], whole[:, 0], atol=1e-4)
        expected = whole[:, 1:-1]
    np.testing.assert_allclose(found[:, 1:], expected, atol=1e-4)


def test_both_kinds_of_border_are_tested(any_llm: LLM) -> None:
    """The tiny Llama has a border and the tiny GPT-2 none, so that the test above sees both branches."""
    assert (border(any_llm) is None) == (any_llm.name == "tiny-gpt2")


def test_conditionals_do_not_depend_on_the_batch(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """One text at a time gives what all at once give."""
    whole = CausalLanguageModel(llm).conditionals(TEXTS)
    monkeypatch.setattr("defenses.models.language.POSITIONS", 1)
    np.testing.assert_allclose(CausalLanguageModel(llm).conditionals(TEXTS), whole, atol=1e-5)


def test_extending_by_the_cache_agrees_with_one_pass(any_llm: LLM) -> None:
    """Token by token through the cache: the same log-probabilities to 1e-4."""
    language = CausalLanguageModel(any_llm)
    expected = language.conditionals(TEXTS)
    found, state = language.start(len(TEXTS))
    for t in range(TEXTS.shape[1]):
        np.testing.assert_allclose(found, expected[:, t], atol=1e-4)
        found, state = language.extend(TEXTS[:, t], state)


def test_reordered_texts_go_on_as_they_began(any_llm: LLM) -> None:
    """Texts that are taken twice, dropped and swapped keep their own past; the state before stays as it was."""
    language = CausalLanguageModel(any_llm)
    _, state = language.start(3)
    for t in range(4):
        _, state = language.extend(TEXTS[:, t], state)
    rows = np.array([2, 0, 2, 2])
    following = np.array([9, 8, 7, 6])
    found, _ = language.extend(following, language.reorder(state, rows))
    texts = np.hstack([TEXTS[rows, :4], following[:, None]])
    expected = language.conditionals(np.hstack([texts, following[:, None]]))[:, -1]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    kept, _ = language.extend(TEXTS[:, 4], state)
    np.testing.assert_allclose(kept, language.conditionals(TEXTS)[:, 5], atol=1e-4)


def test_an_empty_state_can_be_reordered(any_llm: LLM) -> None:
    """Before the first token too, with a border or without."""
    language = CausalLanguageModel(any_llm)
    _, state = language.start(2)
    found, _ = language.extend(np.array([1, 2, 3]), language.reorder(state, np.array([0, 1, 1])))
    expected = language.conditionals(np.array([[1, 0], [2, 0], [3, 0]]))[:, 1]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_both_satisfy_the_adversaries_interface(llm: LLM, masked_folder: Path) -> None:
    """An adversary's annotation accepts them, and both carry their name into records."""
    found: list[LanguageModel] = [CausalLanguageModel(llm), MaskedLanguageModel(str(masked_folder), llm)]
    assert [one.name for one in found] == ["tiny", str(masked_folder)]


@pytest.fixture(scope="session")
def masked_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT over eleven wordpieces with its tokenizer, in a local folder."""
    folder = tmp_path_factory.mktemp("masked") / "bert"
    entries = Tokenizer(models.WordPiece({entry: i for i, entry in enumerate(ENTRIES)}, unk_token="[UNK]"))  # noqa: S106 - the name of an entry
    entries.normalizer = normalizers.Lowercase()
    entries.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=entries, mask_token="[MASK]", **special).save_pretrained(folder)  # noqa: S106
    sizes = {"vocab_size": len(ENTRIES), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = BertForMaskedLM(BertConfig(**sizes, intermediate_size=32, max_position_embeddings=16))
        model.save_pretrained(folder)
    return folder


def ids(llm: LLM, text: str) -> Tokens:
    """Token ids of a text as one prompt, (1, T)."""
    return np.asarray([llm.tokenize(text)])


def at_mask(folder: Path, entries: list[str]) -> Float32:
    """Oracle: the masked model's probabilities at the mask of one text, (W,)."""
    model = BertForMaskedLM.from_pretrained(folder).eval()
    row = torch.tensor([[ENTRIES.index(entry) for entry in entries]])
    with torch.no_grad():
        return torch.softmax(model(row).logits[0, entries.index("[MASK]")], -1).numpy()


def test_masked_positions_are_predicted_from_all_others(llm: LLM, masked_folder: Path) -> None:
    """Position by position against inputs that are written out by hand, and the sharing of an entry by hand."""
    found = np.exp(MaskedLanguageModel(str(masked_folder), llm).conditionals(ids(llm, "a c."))[0])
    around = [["[MASK]", "c", "."], ["a", "[MASK]", "c", "."], ["a", "[MASK]", "."], ["a", "c", "[MASK]"]]
    (a, upper, dot) = (llm.tokenize(letter)[0] for letter in ("a", "A", "."))
    for t, inner in enumerate(around):
        p = at_mask(masked_folder, ["[CLS]", *inner, "[SEP]"])
        # No byte has a leading space, so "a" departs once from the entry and "A" twice.
        assert found[t, a] == pytest.approx(p[ENTRIES.index("a")] / (1 + DEPARTURE), rel=1e-4)
        assert found[t, upper] == pytest.approx(p[ENTRIES.index("a")] * DEPARTURE / (1 + DEPARTURE), rel=1e-4)
        assert found[t, dot] == pytest.approx(p[ENTRIES.index(".")], rel=1e-4)


def test_pieces_that_continue_a_word_belong_to_their_own_entry(llm: LLM, masked_folder: Path) -> None:
    """Byte "b" has no leading space, so it stands for "##b" and not for "b"."""
    found = np.exp(MaskedLanguageModel(str(masked_folder), llm).conditionals(ids(llm, "ab"))[0, 1])
    p = at_mask(masked_folder, ["[CLS]", "a", "[MASK]", "[SEP]"])
    assert found[llm.tokenize("b")[0]] == pytest.approx(p[ENTRIES.index("##b")] / (1 + DEPARTURE), rel=1e-4)


def test_spellings_after_a_space_have_most_of_an_entry(llm: LLM, masked_folder: Path) -> None:
    """Of " a", "a" and "A" the first is the entry itself, the others depart from it once and twice."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:-1]
    letters = Tokenizer(models.BPE(vocab={one: i for i, one in enumerate([*alphabet, "Ġa"])}, merges=[("Ġ", "a")]))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters.decoder = decoders.ByteLevel()
    spaced = replace(llm, tokenizer=PreTrainedTokenizerFast(tokenizer_object=letters))
    tokens = ids(spaced, "c a")
    assert tokens.shape == (1, 2)
    found = np.exp(MaskedLanguageModel(str(masked_folder), spaced).conditionals(tokens)[0, 1])
    p = at_mask(masked_folder, ["[CLS]", "c", "[MASK]", "[SEP]"])[ENTRIES.index("a")]
    shares = np.array([1, DEPARTURE, DEPARTURE**2])
    places = [spaced.tokenize(text)[0] for text in (" a", "a", "A")]
    np.testing.assert_allclose(found[places], p * shares / shares.sum(), rtol=1e-4)


def test_masked_rows_are_distributions(llm: LLM, masked_folder: Path) -> None:
    """Each row sums to 1 and rules nothing out; tokens without an entry share evenly what no entry claims."""
    language = MaskedLanguageModel(str(masked_folder), llm)
    found = np.exp(language.conditionals(ids(llm, "a word. c")))
    np.testing.assert_allclose(found.sum(-1), 1.0, atol=1e-5)
    assert found.min() > 0
    strangers = [llm.tokenize(letter)[0] for letter in "xyz?!"]
    assert np.ptp(found[..., strangers], axis=-1).max() == 0


def test_masked_texts_are_cut_around_the_mask(llm: LLM, masked_folder: Path) -> None:
    """A text beyond the model's 16 positions is read as its nearest neighbours, and the mask is always there."""
    language = MaskedLanguageModel(str(masked_folder), llm)
    found = language.conditionals(ids(llm, "a c . " * 8))
    assert found.shape == (1, 48, 256)
    row = ids(llm, "a c . " * 8)[0]
    for text in language._masked_texts(row):
        assert text.count(ENTRIES.index("[MASK]")) == 1
        assert len(text) <= 16


def test_masked_models_write_no_text(llm: LLM, masked_folder: Path) -> None:
    """Beginning, extending and reordering say why not."""
    language = MaskedLanguageModel(str(masked_folder), llm)
    for attempt in (
        lambda: language.start(1),
        lambda: language.extend(np.array([1]), None),
        lambda: language.reorder(None, np.array([0])),
    ):
        with pytest.raises(Unavailable, match="is a masked language model"):
            attempt()


def test_a_masked_model_that_is_none_is_said(llm: LLM, tmp_path: Path, masked_folder: Path) -> None:
    """A missing folder, a causal model and a tokenizer without a mask: one line each."""
    with pytest.raises(UserError, match=r"nowhere.*give a local folder or a hub id"):
        MaskedLanguageModel(str(tmp_path / "nowhere"), llm)
    llm.model.save_pretrained(tmp_path / "causal")
    llm.tokenizer.save_pretrained(tmp_path / "causal")
    with pytest.raises(UserError, match="give a local folder"):
        MaskedLanguageModel(str(tmp_path / "causal"), llm)
    llm.tokenizer.save_pretrained(tmp_path / "maskless")
    BertForMaskedLM.from_pretrained(masked_folder).save_pretrained(tmp_path / "maskless")
    with pytest.raises(UserError, match="has no mask token"):
        MaskedLanguageModel(str(tmp_path / "maskless"), llm)
