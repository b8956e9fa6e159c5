"""Sources of the defences, attacks and statistics that a report speaks of, by their names in a record.

A name that is not here belongs to another package or to a newer version, and the page says so. A test holds the lists
against the plug-ins that are installed.
"""

from collections.abc import Sequence

from audit.audit_record import KINDS as AUDITS
from audit.bounds import ESTIMATORS
from audit.records import RunRecord
from reports.rows import escape

OURS = "this package"
DEFENCES = {
    "identity": "control: plain split inference",
    "projection-only": "control: the projection of arXiv 2602.11513 without noise",
    "hidden-states": "control: split after k blocks; attacked in Li, Xu, Song 2023 and Morris et al. 2023",
    "del": "DEL: Gu, Jin, Ji, Jin, Xu 2026, arXiv 2602.11513",
    "del-tuned": f"{OURS}, on DEL's mechanism (arXiv 2602.11513)",
    "quantization": "Jacob et al. 2018 (CVPR)",
    "gaussian": "Dong, Roth, Su 2022 (JRSS B); Balle, Wang 2018 (ICML)",
    "laplace": "Dwork, McSherry, Nissim, Smith 2006 (TCC)",
    "quantized-gaussian": "Gaussian mechanism (Balle, Wang 2018), then rounding",
    "discrete-gaussian": "Canonne, Kamath, Steinke 2020 (NeurIPS)",
    "metric-noise": "Feyisetan, Balle, Drake, Diethe 2020 (WSDM)",
    "split-and-denoise": "Mai, Yan, Huang, Zhang, Hua 2024 (ICML)",
    "dp-forward": "Du, Yue, Chow, Wang, Huang, Sun 2023 (CCS)",
    "shredder": "Mireshghallah et al. 2020 (ASPLOS)",
    "santext": "SANTEXT: Yue et al. 2021 (Findings of ACL)",
    "santext-plus": "SANTEXT+: Yue et al. 2021 (Findings of ACL)",
    "custext": "CusText: Chen et al. 2023 (Findings of ACL)",
    "tem": "TEM: Carvalho, Vasiloudis, Feyisetan, Wang 2023 (SDM)",
    "diffractor": "1-Diffractor: Meisenbacher, Chevli, Matthes 2024 (IWSPA)",
    "rapt": "RAPT: Li, Tan, Liu 2023, arXiv 2305.06212",
    "rantext": "RANTEXT of InferDPT: Tong et al. 2025 (TDSC), arXiv 2310.12214",
    "secret-sharing": "additive secret sharing between two servers; docs/crypto.md",
}
ATTACKS = {
    "prior": "the most frequent tokens of public text; sees nothing",
    "cosine": "arXiv 2602.11513, evaluation: the attack by which DEL is calibrated",
    "latent-l2": "nearest latent, before the decoder",
    "latent-ml": "maximum likelihood of one token",
    "map": "posterior of one token: Balle, Cherubin, Hayes 2022 (S&P) call its success reconstruction robustness",
    "hmm": f"{OURS}: exact likelihood and a bigram prior, forward-backward (Rabiner 1989)",
    "lm": f"{OURS}: exact likelihood and a causal language model, beam search",
    "learned": f"{OURS}: a transformer trained on views of public text",
    "inverter": "after GEIA (Li, Xu, Song 2023) and vec2text (Morris et al. 2023)",
    "masked-lm": "input inference: Yue et al. 2021 (Findings of ACL)",
    "resend": "posterior over several messages of one prompt: composition",
    "attribute-boosting": "Ke et al. 2017, as scikit-learn implements it",
    "attribute-logistic": "logistic regression, scikit-learn",
    "attribute-mlp": "two-layer perceptron",
}
_EXACT = ("exact ε", "the binomial pair's own trade-off; composition by convolution (docs/audit.md)")
_NOMINAL = ("nominal ε", "mu-GDP as arXiv 2602.11513 states it; converted by Dong, Roth, Su 2022, Corollary 2.13")
_SANDWICH = ("gamma and the sandwich", "arXiv 2602.11513, Theorem 4.2 (Berry-Esseen)")
_BOOTSTRAP = ("95 % intervals", "cluster bootstrap over documents or users, expanded percentiles (Hesterberg 2015)")
_HOLM = ("corrected p-values", "Holm 1979")
_CEILING = ("ceilings of an attack", "reconstruction robustness: Balle, Cherubin, Hayes 2022; Hayes et al. 2023")


def cited_methods(records: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """The statistics that the records' columns rest on, each with its source; escaped."""
    keys = {key for record in records for row in record.rows for key in row}
    found = [
        method for method, column in (
            (_EXACT, "epsilon_exact_token"), (_NOMINAL, "epsilon_gdp_token"), (_SANDWICH, "gamma"),
            (_CEILING, "ceiling_exact"), (_HOLM, "p_holm"),
        ) if column in keys or (column == "p_holm" and any(key.endswith("_p_holm") for key in keys))
    ]  # fmt: skip
    if any(key.endswith("_low") for key in keys):
        found.append(_BOOTSTRAP)
    rows = [row for record in records if record.kind in AUDITS for row in record.rows]
    for name in dict.fromkeys(str(row["estimator"]) for row in rows if row.get("estimator")):
        known = ESTIMATORS.get(name)
        found.append((f"lower bound: {escape(name)}", "unknown to this version" if known is None else known.source))
    return found
