"""A synthetic record in the shape of a quickstart's: two controls, DEL at two n, one column left out here and there."""

import math
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest

from audit.provenance import Provenance
from audit.records import Figure, RunRecord, new_record

# (n, mu, exact epsilon, epsilon of mu-GDP, perplexity, cosine ASR, MAP ASR)
POINTS = (
    (4, 20.0, 274.2, 284.39, 2165.0, 0.021, 0.034),
    (4, 60.0, 1331.0, 2054.0, 226.0, 0.235, 0.381),
    (4, 100.0, 1590.4, 5425.0, 135.0, 0.489, 0.702),
    (8, 20.0, 283.77, 284.39, 2080.0, 0.022, 0.036),
    (8, 60.0, 2008.1, 2054.0, 208.0, 0.251, 0.41),
    (8, 100.0, 5120.7, 5425.0, 121.0, 0.53, 0.744),
)


def spread(name: str, value: float, share: float = 0.1) -> dict[str, float]:
    """A figure with an interval of plus and minus a share of it."""
    return {name: value, f"{name}_low": value * (1 - share), f"{name}_high": value * (1 + share)}


def defended(point: tuple[int, float, float, float, float, float, float]) -> dict[str, Any]:
    """A row of DEL."""
    n, mu, exact, gdp, perplexity, cosine, posterior = point
    return {
        "defence": "del", "projection": "d128-noise-aware", "n": n, "d": 128, "mu": mu, "a_over_c": 90 / mu, "seed": 0,
        "claim": f"mu-GDP (mu={mu:g}) per one token", "delta": 1e-5, "epsilon_exact_token": exact,
        "epsilon_gdp_token": gdp, "epsilon_pure_token": 3 * exact, "gamma": 0.0138, "vacuous": True,
        "vacuous_reason": "an adversary may be right up to 100 % of the time", "prompt_name": f"n{n}-mu{mu:g}",
        **spread("perplexity", perplexity), **spread("perplexity_without_prompt", 1.4 * perplexity),
        **spread("agreement_top1", 40 / (100 + perplexity)), **spread("coherence", 0.2 + 20 / perplexity),
        "coherence_encoder": "all-MiniLM-L6-v2", **spread("asr_top1_cosine", cosine),
        **spread("asr_top1_map", posterior), "asr_prior": 0.031,
        "bytes_up_per_token": 16.0 * n + 1.5, "bytes_down_per_token": 4.5, "client_ms_per_token": 0.021 * n,
        "server_s_per_token": 0.045,
    }  # fmt: skip


# Label -> (top-1 success, posterior mean or None) at a mu, about as on the default model.
READ = {
    20.0: {"prior": (0.06, None), "cosine": (0.06, None), "latent-l2": (0.07, None), "map": (0.11, 0.12),
           "hmm": (0.17, 0.16), "lm": (0.05, None), "resend-sends16": (0.48, 0.5)},
    60.0: {"prior": (0.06, None), "cosine": (0.35, None), "latent-l2": (0.37, None), "map": (0.64, 0.65),
           "hmm": (0.74, 0.69), "lm": (0.7, 0.72), "resend-sends16": (0.99, 0.99)},
}  # fmt: skip
TOLD = "mechanism, projection, embedding table, public text; one message"
SEVERAL = "mechanism, projection, embedding table, public text; 16 messages of each prompt"
EVIL = "<b>$x_$|evil</b>"


def attacked(mu: float, strongest: str) -> dict[str, Any]:
    """A row of a full attack run at a mu, in the columns of `audit.inversion.figures`."""
    row: dict[str, Any] = {
        "defence": "del", "projection": "d128-noise-aware", "n": 4, "d": 128, "mu": mu, "epsilon_exact_token": 14 * mu,
        "attack_tokens": 2048, "attack_documents": 31, "attack_seeds": 3, "names_are": "capitalised words",
    }  # fmt: skip
    for label, (rate, expected) in READ[mu].items():
        row |= {**spread(f"asr_top1_{label}", rate), **spread(f"asr_top10_{label}", min(1.0, 1.3 * rate), 0.0),
                **spread(f"exact_{label}", rate**8), **spread(f"advantage_{label}", rate - 0.06, 0.0),
                **spread(f"asr_content_{label}", 0.8 * rate), **spread(f"asr_names_{label}", 0.6 * rate),
                f"asr_numbers_{label}": None, **spread(f"bag_precision_{label}", rate), f"rank_kept_{label}": 10.0,
                **spread(f"bag_recall_{label}", rate), **spread(f"rouge_l_{label}", rate),
                **spread(f"bleu_{label}", rate / 2),
                f"knowledge_{label}": SEVERAL if label.startswith("resend") else TOLD}  # fmt: skip
        if expected is not None:
            row |= {**spread(f"posterior_mean_{label}", expected), f"posterior_gap_{label}": expected - rate}
        row |= {key: min(1.0, value) for key, value in row.items() if key.endswith("_high") and value is not None}
        if label != "cosine":
            name = f"gain_{label}_over_cosine"
            gain = rate - READ[mu]["cosine"][0]
            row |= {name: gain, f"{name}_low": gain - 0.02, f"{name}_high": gain + 0.02,
                    f"{name}_p": 0.0005, f"{name}_p_holm": 0.003 if abs(gain) > 0.02 else 0.7}  # fmt: skip
    row |= {"rank_median_hmm": 3.0, "rank_median_hmm_low": 2.0, "rank_median_hmm_high": None,
            "rank_median_cosine": None, "rank_median_cosine_low": None, "rank_median_cosine_high": None}  # fmt: skip
    row |= {"asr_top1_learned": None, "asr_top10_learned": None, "unavailable_learned": "too little | public text"}
    for end in ("", "_low", "_high"):
        row |= {
            f"asr_strongest{end}": row[f"asr_top1_{strongest}{end}"],
            f"asr_prior{end}": row[f"asr_top1_prior{end}"],
        }
    return row | {
        "strongest_attack": strongest, "strongest_chosen_on": "1024 tokens of the adversary's own text",
        "kappa": 0.066, "ceiling_exact": 0.9981, "ceiling_claimed": 0.9999,
    }  # fmt: skip


@pytest.fixture(scope="session")
def origin() -> Provenance:
    """Where synthetic records come from."""
    return Provenance(
        commit="0123abcd" * 5, dirty=False, versions={"numpy": "2.0.0"}, environment={"cpu_count": 2},
        created="2026-01-02T03:04:05+00:00", command="delaudit attack",
    )  # fmt: skip


@pytest.fixture(scope="session")
def attack_record(origin: Provenance) -> RunRecord:
    """DEL at two mu; a text defence where little could run and the blind prior is the strongest; a row of nothing."""
    words = {
        "defence": "santext", "claim": "none | at all", "attack_tokens": 512, "attack_documents": 31, "attack_seeds": 1,
        **spread("asr_top1_prior", 0.06), **spread("asr_top10_prior", 0.2), **spread("asr_prior", 0.06),
        **spread("asr_top1_masked-lm", 0.05), "knowledge_masked-lm": "language model; one message",
        "knowledge_prior": "public text; one message", "asr_top1_cosine": None,
        "unavailable_cosine": "santext sends words, not vectors", "strongest_attack": "prior",
        **spread("asr_strongest", 0.06), "asr_top1_" + EVIL: 0.01, "kappa": 0.066, "ceiling_claimed": 0.09,
        "ceiling_exact": 0.08, "asr_content_masked-lm": math.nan,
    }  # fmt: skip
    examples = [
        {"condition": "del n=4 mu=20", "text": "Dear <i>Ann|Lee</i>,\n*call* me", "recovered": {
            "cosine": "Dear the of", EVIL: "`Dear` [x](http://y.z)"}, "recovered_share": {"cosine": 0.25, EVIL: 0.5}},
    ]  # fmt: skip
    rows = [attacked(20.0, "hmm"), attacked(60.0, "hmm"), words, {"defence": "identity"}]
    return new_record("attack", config={}, seed=0, rows=rows, examples=examples, provenance=origin)


@pytest.fixture(scope="session")
def calibration_record(origin: Provenance) -> RunRecord:
    """Two points: calibrated by cosine to 2 %, and by the strongest attack to 2 % above the blind guess."""
    shared = {
        "defence": "del", "projection": "d128-noise-aware", "n": 4, "d": 128, "delta": 1e-5, "target_asr": 0.02,
        "blind": 0.06, "attack_tokens": 1984, "attack_documents": 30, "attack_seeds": 3, "calibration_tokens": 2016,
    }  # fmt: skip
    weak = {
        **shared, "calibrated_with": "cosine", "above_blind": False, "mu": 20.5, "a_over_c": 2.18, "vacuous": True,
        "vacuous_reason": "right 99 % of the time", "epsilon_exact_token": 281.0, "epsilon_gdp_token": 297.0,
        "strongest_attack": "hmm", **spread("asr_strongest", 0.25), **spread("asr_top1_hmm", 0.25),
        **spread("asr_top1_cosine", 0.021), **spread("asr_top1_map", 0.17), **spread("asr_prior", 0.061),
    }  # fmt: skip
    sound = {
        **shared, "calibrated_with": "strongest", "above_blind": True, "mu": 9.1, "a_over_c": 4.9, "vacuous": False,
        "epsilon_exact_token": 83.0, "epsilon_gdp_token": 84.0, "strongest_attack": "map",
        **spread("asr_strongest", 0.081), **spread("asr_top1_hmm", 0.079), **spread("asr_top1_cosine", 0.004),
        **spread("asr_top1_map", 0.081), **spread("asr_prior", 0.061),
    }  # fmt: skip

    def search(name: str, at: float, goal: float) -> dict[str, Any]:
        steps, low, high = [0.5, 2000.0], math.log(0.5), math.log(2000.0)
        for _ in range(14):
            steps.append(math.exp((low + high) / 2))
            low, high = (math.log(steps[-1]), high) if steps[-1] < at else (low, math.log(steps[-1]))
        return {
            "calibrated_with": name, "trace": [[mu, min(1.0, (goal if name == "cosine" else 0.06 + 0.02 * (mu / at))
                                                        * (mu / at if name == "cosine" else 1))] for mu in steps],
        }  # fmt: skip

    examples = [search("cosine", 20.5, 0.02), search("strongest", 9.1, 0.08)]
    return new_record("calibration", config={}, seed=0, rows=[weak, sound], examples=examples, provenance=origin)


@pytest.fixture(scope="session")
def record() -> RunRecord:
    """The record."""
    controls: list[dict[str, Any]] = [
        {"defence": "identity", "seed": 0, **spread("perplexity", 26.5, 0.06), **spread("coherence", 0.61),
         "coherence_encoder": "all-MiniLM-L6-v2", "asr_top1_cosine": 1.0, "asr_prior": 0.031},
        {"defence": "projection-only", "seed": 0, "d": 128, **spread("perplexity", 57.0, 0.08)},
    ]  # fmt: skip
    rows = [defended(point) for point in POINTS]
    rows[0]["coherence"] = math.nan
    del rows[1]["client_ms_per_token"]
    rows[2]["gamma"] = math.inf
    example = {
        "condition": "del n=4 mu=20", "text": "I am <b>Ann|Lee</b>,\nsee [me](http://x.y) `now` *soon*",
        "recovered": {"cosine": "I am a the of", "map": None}, "recovered_share": {"cosine": 0.25},
    }  # fmt: skip
    answer = {"condition": "del n=4 mu=20", "text": "My name is", "generation": "the | the", "clean_generation": "Ann."}
    origin = Provenance(
        commit="0123abcd" * 5,
        dirty=True,
        versions={"numpy": "2.0.0"},
        environment={"cpu_count": 2},
        created="2026-01-02T03:04:05+00:00",
        command="delaudit quickstart --seed 0",
    )
    return new_record(
        "quickstart",
        config={"model": "smollm2-135m", "seed": 0},
        seed=0,
        rows=[*controls, *rows],
        data=[{"name": "embedded workload", "sha256": "ab" * 32}],
        figures=[Figure("clean_perplexity", 26.5, 25.0, 28.0, 0.95, 60, "cluster bootstrap, 2000 resamples")],
        examples=[example, answer],
        provenance=origin,
    )


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium without a window: the system's, or Playwright's own."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[test]'")
    with sync_api.sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(
                executable_path=next(filter(None, map(shutil.which, BROWSERS)), None), args=["--no-sandbox"]
            )
        except sync_api.Error:
            pytest.skip("needs a browser: apt install chromium, or playwright install chromium")
        yield found
        found.close()


class Opened:
    """A page in a tab, with what the browser said and asked for."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        self.tab = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.tab.on("console", lambda message: self.said.append(message.text))
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.goto(path.as_uri())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


@pytest.fixture(scope="session")
def opened(browser: Any) -> Callable[..., Opened]:
    """Opens a page: path, width and options of the browser's context."""
    return partial(Opened, browser)


@pytest.fixture(scope="session")
def examined(opened: Callable[..., Opened]) -> Callable[[Path, int, str], None]:
    """Fails where a page logs an error, asks for anything, is wider than the window or breaks a rule of WCAG 2.2 AA."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe: pip install -e '.[test]'")

    def examine(path: Path, width: int, scheme: str) -> None:
        with opened(path, width, color_scheme=scheme) as page:
            charts = page.tab.locator("figure[data-chart]").count()
            page.tab.wait_for_function("(n) => document.querySelectorAll('figure .chart svg').length === n", arg=charts)
            found = axe.Axe().run(page.tab, options={"runOnly": RULES})
            assert found.violations_count == 0, found.generate_report()
            assert page.said == []
            assert [url for url in page.asked if not url.startswith("data:")] == [path.as_uri()]
            assert page.tab.evaluate("document.documentElement.scrollWidth") == width

    return examine
