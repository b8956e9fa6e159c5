"""The paragraph in plain words: each rule says what its figures say, and nothing where there are none."""

import dataclasses
import math
from typing import Any

import pytest

from audit.provenance import Provenance
from audit.records import RunRecord, new_record
from reports.plain_words import Sentence, plain_words, sentences
from reports.rows import NOT_MEASURED

ORIGIN = Provenance(
    commit="0123abcd" * 5, dirty=False, versions={}, environment={}, created="2026-01-02T03:04:05+00:00", command="x"
)
PROOF = "A stronger attack may exist, and none of these figures proves privacy."


def spread(name: str, value: float, share: float = 0.1) -> dict[str, float]:
    """A figure with an interval of plus and minus a share of it."""
    return {name: value, f"{name}_low": value * (1 - share), f"{name}_high": value * (1 + share)}


def row(mu: float, strongest: float | None = None, paper: float | None = None, **more: Any) -> dict[str, Any]:
    """A condition of DEL, attacked where a rate is given."""
    found: dict[str, Any] = {"defence": "del", "n": 4, "mu": mu, "delta": 1e-5, "perplexity": 106.0,
                             "perplexity_over_clean": 4.0}  # fmt: skip
    if strongest is not None:
        found |= {"strongest_attack": "hmm", **spread("asr_strongest", strongest), **spread("asr_top1_hmm", strongest),
                  "asr_prior": 0.06, "attack_tokens": 2048, "attack_documents": 31}  # fmt: skip
    if paper is not None:
        found |= spread("asr_top1_cosine", paper)
    return found | more


def experiment(*rows: dict[str, Any], **config: Any) -> RunRecord:
    """An experiment of these rows."""
    return new_record("experiment", config=config, seed=0, rows=rows, provenance=ORIGIN)


def audit(*rows: dict[str, Any]) -> RunRecord:
    """An audit of these rows."""
    return new_record("audit", config={}, seed=0, rows=[claim(**one) for one in rows], provenance=ORIGIN)


def claim(name: str, verdict: str, claimed: float = 4.0, lower: float = 1.0, **more: Any) -> dict[str, Any]:
    """A row of an audit."""
    return {
        "claim": name, "defence": "del", "claim_text": f"mu-GDP of {name}", "verdict": verdict, "delta": 1e-5,
        "epsilon_claimed": claimed, "epsilon_lower": lower, "confidence": 0.95, "p_value": 0.01, "samples": 2000,
        "estimator": "clopper-pearson", **more,
    }  # fmt: skip


def person(auc: float, p_holm: float | None, view: str = "defended", **more: Any) -> dict[str, Any]:
    """A row of attribute inference."""
    return {"task": "party", "view": view, "defence": "del", "n": 4, "mu": 20.0, **spread("auc", auc),
            "p_holm": p_holm, "victims": 53, **more}  # fmt: skip


def people(*rows: dict[str, Any], **config: Any) -> RunRecord:
    """A record of attribute inference."""
    return new_record("attributes", config=config, seed=0, rows=rows, provenance=ORIGIN)


def said(start: str, *records: RunRecord) -> Sentence:
    """The one sentence that begins so."""
    (found,) = [one for one in sentences(records) if one.text.removeprefix("**").startswith(start)]
    return found


def starts(*records: RunRecord) -> str:
    """All sentences in one line."""
    return " ".join(one.text for one in sentences(records))


def test_what_was_tested_is_counted() -> None:
    """If this failed, controls would count as tested, or a model, a claim or an attribute be left out."""
    controls = [{"defence": "identity", "perplexity": 26.5}, {"defence": "projection-only", "perplexity": 28.0}]
    text = said("This report tested", experiment(*controls, row(5), row(9), row(5, defence="tem"), model="one"),
                audit({"name": "a", "verdict": "REFUTED"}), people(person(0.8, 0.001), model="two")).text  # fmt: skip
    assert text == (
        "This report tested 3 conditions of 2 defences (del, tem), 1 claim by audit (del) and the inference of "
        "1 attribute of people on one, two."
    )


def test_few_of_many_defences_are_named() -> None:
    """If this failed, a suite of thirty defences would fill the first sentence, or the rest would go unsaid."""
    text = said("This report", experiment(*(row(5, defence=f"d{place}") for place in range(8)))).text
    assert "8 conditions of 8 defences (d0, d1, d2, d3, d4, d5 and 2 more)" in text


def test_the_worst_refuted_claim_is_told() -> None:
    """If this failed, a harmless excess would be told in place of the claim that lies the most."""
    claims = audit(
        {"name": "slight", "verdict": "REFUTED", "claimed": 100.0, "lower": 110.0},
        {"name": "gross", "verdict": "REFUTED", "claimed": 1.0, "lower": 7.25},
        {"name": "sound", "verdict": "CONSISTENT", "claimed": 1.0, "lower": 99.0},
    )
    found = said("The claim", claims)
    assert found.text == (
        "**The claim gross of del is false**, one of 2 refuted claims: it promises ε = 1, and ε is at least 7.25 with "
        "confidence 95.0 %."
    )
    behind = {one.figure: one for one in found.evidence if one.of == "gross"}
    for figure, value in (("epsilon_claimed", "1"), ("epsilon_lower", "7.25"), ("p_value", "0.01")):
        assert (behind[figure].value, behind[figure].basis) == (value, "2,000 samples a side, clopper-pearson")


def test_a_refutation_by_the_curve_promises_no_bound() -> None:
    """If this failed, a claim refuted by its whole curve would be said to be beaten by a bound that lies below it."""
    text = said("The claim", audit({"name": "bent", "verdict": "REFUTED", "claimed": 9.0, "lower": 3.0})).text
    assert text == "**The claim bent of del is false**."


def test_canaries_are_no_samples_a_side() -> None:
    """If this failed, the evidence would call inserted canaries draws from two inputs, as the audit's page does not."""
    found = said("The claim", audit(
        {"name": "twin", "verdict": "REFUTED", "lower": 9.0, "through": "canaries", "samples": 480},
    ))  # fmt: skip
    assert {one.basis for one in found.evidence if one.of == "twin"} == {"480 canaries, clopper-pearson"}


def test_nothing_refuted_is_no_proof() -> None:
    """If this failed, an audit that found nothing would read as a certificate."""
    found = said("No audited claim", audit({"name": "a", "verdict": "CONSISTENT"}, {"name": "b", "verdict": None}))
    assert found.text == "No audited claim was refuted, which is no proof that any of them is true."
    assert [(one.value, one.basis) for one in found.evidence] == [("0", "of 2 claims")]


def test_without_an_audit_no_claim_is_spoken_of() -> None:
    """If this failed, a run without an audit would seem to have had one."""
    text = starts(experiment(row(5, 0.2)))
    assert "refuted" not in text
    assert "no claim was put to an empirical audit" in text


def test_the_gap_is_told_where_it_is_largest() -> None:
    """If this failed, the condition that is read most would be told, not the one where papers are most mistaken."""
    found = said("Behind", experiment(row(60, 0.9, 0.85), row(20, 0.5, 0.1), row(5, 0.3, 0.25)))
    assert found.text == (
        "**Behind del n=4 mu=20 the strongest attack, hmm, reads 50.0 % [45.0 %, 55.0 %] of tokens where the paper's "
        "own, cosine, reads 10.0 % [9.0 %, 11.0 %].**"
    )
    assert [one.figure for one in found.evidence] == ["asr_strongest", "asr_top1_cosine"]
    assert {one.basis for one in found.evidence} == {"2,048 tokens of 31 documents, 95 % interval over documents"}


def test_a_paper_attack_that_is_no_weaker_is_not_held_against_it() -> None:
    """If this failed, a sentence would claim a gap where the paper's attack reads as much or was not tried."""
    for rows in ([row(20, 0.5, 0.5)], [row(20, 0.5)]):
        found = said("Behind", experiment(*rows))
        assert "paper" not in found.text
        assert [one.figure for one in found.evidence] == ["asr_strongest"]


def test_an_uncorrected_maximum_is_called_so() -> None:
    """If this failed, the best of several attacks on the same tokens would pass for one that was chosen beforehand."""
    several = {"defence": "del", "mu": 5.0, "asr_top1_map": 0.4, "asr_top1_cosine": 0.1, "asr_prior": 0.06}
    assert "the best of several attacks (an uncorrected maximum), map, reads 40.0 %" in starts(experiment(several))


def test_a_blind_prior_is_no_reading() -> None:
    """If this failed, guessing without looking would be told as what an attack reads."""
    blind = {"strongest_attack": "prior", **spread("asr_strongest", 0.06), **spread("asr_top1_prior", 0.06)}
    found = said("Behind", experiment(row(5, 0.05, 0.04) | blind))
    assert found.text == (
        "Behind del n=4 mu=5 no attack beats a blind guess, which is right for 6.0 % [5.4 %, 6.6 %] of tokens."
    )
    assert "Of every 100 tokens" not in starts(experiment(row(5, 0.05, 0.04) | blind))


def test_a_prompt_is_told_at_both_ends() -> None:
    """If this failed, a user would hear of the best or of the worst condition alone, or another number of tokens."""
    found = said("Of every", experiment(row(20, 0.5, asr_prior=0.08), row(60, 0.8), row(5, 0.1)))
    assert found.text == (
        "Of every 100 tokens of a user's prompt that attack names about 80 (72 to 88) at del n=4 mu=60 and about "
        "10 (9 to 11) at del n=4 mu=5; a guess that sees nothing names 6 to 8."
    )
    alone = said("Of every", experiment(row(20, 0.5)))
    assert alone.text.count("about") == 1
    assert [one.figure for one in alone.evidence].count("asr_strongest") == 1


def test_a_rate_without_an_interval_gets_none() -> None:
    """If this failed, a rate of unknown precision would be told with an interval of width nought."""
    bare = {"defence": "del", "mu": 5.0, "strongest_attack": "hmm", "asr_strongest": 0.49, "asr_top1_hmm": 0.49}
    text = said("Of every", experiment(bare)).text
    assert "about 49" in text
    assert "(49 to 49)" not in text


@pytest.mark.parametrize(
    ("vacuous", "told"),
    [
        ((True, True), "The exact guarantee is **vacuous** in every one of 2 accounted conditions: it would let"),
        ((True, False), "The exact guarantee is **vacuous** in 1 of 2 accounted conditions: it would let"),
        ((False, False), "The exact guarantee is **vacuous** in none of 2 accounted conditions; per token"),
    ],
)
def test_vacuous_guarantees_are_counted(vacuous: tuple[bool, bool], told: str) -> None:
    """If this failed, a guarantee that promises nothing would count as one, or the other way round."""
    rows = [
        row(20 + place, vacuous=one, epsilon_exact_token=epsilon)
        for place, (one, epsilon) in enumerate(zip(vacuous, (274.2, 9.63), strict=True))
    ]
    found = said("The exact guarantee", experiment(*rows))
    assert found.text.startswith(told)
    assert found.text.endswith("; per token ε runs from 9.63 to 274.2.")
    assert [(one.value, one.basis) for one in found.evidence if one.figure == "epsilon_exact_token"] == [
        ("9.63", "exact accounting at δ = 1e-05"), ("274.2", "exact accounting at δ = 1e-05"),
    ]  # fmt: skip


def test_an_infinite_epsilon_is_told() -> None:
    """If this failed, a mechanism that hides nothing would be left out of the range, or end the report."""
    text = starts(experiment(row(5, epsilon_exact_token=math.inf), row(6, epsilon_exact_token=3.5)))
    assert "**vacuous** in 1 of 2" in text
    assert "from 3.5 to infinite" in text


def test_no_guarantee_is_no_sentence() -> None:
    """If this failed, defences that account for nothing would be said to be vacuous or not."""
    assert "guarantee" not in starts(experiment(row(5, 0.4), row(6, epsilon_exact_token=math.nan)))


def test_a_bound_on_a_prompt_is_not_called_exact() -> None:
    """If this failed, an upper bound on a prompt's epsilon would be told as its exact value."""
    whole = {"epsilon_exact_token": 9.0, "epsilon_exact_prompt": 61.7, "prompt_tokens": 32}
    exact = said("The exact guarantee", experiment(row(5, **whole, prompt_is_exact=True))).text
    assert "61.7 for a prompt of 32 tokens" in exact
    assert "at most" not in exact
    bound = said("The exact guarantee", experiment(row(5, **whole, prompt_is_exact=False))).text
    assert "at most 61.7 for a prompt of 32 tokens" in bound


def test_the_smallest_epsilon_of_a_prompt_is_the_smallest() -> None:
    """If this failed, another condition's prompt would have a smaller epsilon than the one that is called the least."""
    found = said("The exact guarantee", experiment(
        row(5, epsilon_exact_token=7.31, epsilon_exact_prompt=61.7, prompt_tokens=32),
        row(6, epsilon_exact_token=9.63, epsilon_exact_prompt=58.2, prompt_tokens=32),
    ))  # fmt: skip
    assert "the smallest is 61.7" not in found.text
    assert any(one.figure == "epsilon_exact_prompt" for one in found.evidence)


def test_useful_and_hard_to_read_are_named() -> None:
    """If this failed, a condition that a user may choose would be hidden, or one that is read would be named."""
    found = said("1 of 3", experiment(
        row(60, 0.8, perplexity_over_clean=1.1), row(20, 0.1, perplexity_over_clean=1.4, documents=63),
        row(5, 0.08, perplexity_over_clean=30.0),
    ))  # fmt: skip
    assert found.text.startswith("1 of 3 conditions is both useful (perplexity within 2 times the undefended)")
    assert found.text.endswith(": del n=4 mu=20.")
    assert {(one.figure, one.value, one.of) for one in found.evidence} >= {
        ("perplexity_over_clean", "1.4", "del n=4 mu=20"),
        ("asr_strongest", "10.0 % [9.0 %, 11.0 %]", "del n=4 mu=20"),
    }


@pytest.mark.parametrize(("rate", "how"), [(0.8, "mostly"), (0.3, "partly")])
def test_useful_but_read_is_told(rate: float, how: str) -> None:
    """If this failed, nobody would hear that what is useful is read, or by how much."""
    found = said("None of 2", experiment(
        row(60, 0.9, perplexity_over_clean=1.1), row(20, rate, perplexity_over_clean=1.4),
    ))  # fmt: skip
    assert found.text.endswith(f"; the least readable useful one, del n=4 mu=20, is {how} read.")


def test_nothing_useful_is_told() -> None:
    """If this failed, a set of useless conditions would go without the word that none of them can be used."""
    found = said("None of 2", experiment(
        row(20, 0.1, perplexity_over_clean=30.0), row(30, 0.2, perplexity_over_clean=5.5),
    ))  # fmt: skip
    assert found.text.endswith("; the most useful one, del n=4 mu=30, has 5.5 times the undefended perplexity.")


def test_utility_is_taken_from_the_runs_own_control() -> None:
    """If this failed, one run's conditions would be judged by another run's undefended model."""
    attacked = row(20, 0.1) | {"perplexity_over_clean": None, "perplexity": 30.0}
    clean = {"defence": "identity", "perplexity": 20.0}
    other = experiment({"defence": "identity", "perplexity": 1.0}, row(5))
    assert said("1 of 1 condition is both", other, experiment(clean, attacked))
    assert not [one for one in sentences([experiment(attacked), experiment(clean, row(5))]) if "useful" in one.text]


def test_an_attribute_that_is_told_is_named() -> None:
    """If this failed, what a defended view gives away of a person would be hidden behind a higher clean figure."""
    found = said("From a defended view", people(
        person(0.99, 0.001, "clean"), person(0.72, 0.004, mu=10.0), person(0.85, 0.002), person(0.97, 0.4, mu=5.0),
    ))  # fmt: skip
    assert found.text == (
        "From a defended view party of a person is told from chance: AUC 0.85 [0.765, 0.935] for defended n=4 mu=20, "
        "where .5 is guessing; 2 of 3 pairs of attribute and view are."
    )
    assert {(one.figure, one.value, one.basis) for one in found.evidence} >= {
        ("auc", "0.85 [0.765, 0.935]", "53 users, Holm over all rows"),
        ("p_holm", "0.002", "53 users, Holm over all rows"),
    }


def test_an_attribute_that_is_not_told_is_said() -> None:
    """If this failed, a defence that hides an attribute would be said to give it away."""
    found = said("From a defended view", people(person(0.9, 0.001, "clean"), person(0.53, 0.4)))
    assert found.text.startswith("From a defended view no attribute of a person is told from chance; 0 of 1 pair")


def test_untested_attributes_are_not_called_hidden() -> None:
    """If this failed, a view whose p-value was never had would be said to give nothing away."""
    text = starts(people(person(0.93, None)))
    assert "no attribute of a person is told from chance" not in text


def test_views_that_are_not_defended_make_no_finding() -> None:
    """If this failed, what the undefended prompt gives away would be laid at the defence's door."""
    assert "From a defended view" not in starts(people(person(0.9, 0.001, "clean"), person(math.nan, 0.001)))


@pytest.mark.parametrize(
    ("records", "there", "absent"),
    [
        ([experiment(row(5))], ["no claim was put", "nothing was attacked", "no attribute", "no second model"],
         ["several messages"]),
        ([experiment(row(5, 0.3))], ["no adversary saw several messages of one prompt"], ["nothing was attacked"]),
        ([experiment(row(5, 0.3, **{"asr_top1_resend-sends16": 0.9}))], ["no attribute"], ["several messages"]),
        ([experiment(row(5, 0.3)), audit({"name": "a", "verdict": "CONSISTENT"})], ["several"], ["no claim was put"]),
        ([experiment(row(5, 0.3)), people(person(0.6, 0.3))], ["no claim was put"], ["no attribute"]),
        ([experiment(row(5), model="one"), experiment(row(5), model="two")], ["nothing"], ["no second model"]),
        ([experiment(row(5), model="one"), experiment(row(5), model="one")], ["no second model"], []),
        ([experiment(row(5, 0.3, unavailable_lm="no model", unavailable_map="no law"), row(6, unavailable_lm="as"))],
         ["2 attacks could not run against some conditions (lm, map)"], []),
        ([dataclasses.replace(experiment(row(5)), remarks=["broken off"]), experiment(row(5))],
         ["1 run of this report came with a remark that stands under Provenance"], []),
        ([audit({"name": "a", "verdict": "CONSISTENT"})], ["no attribute"], ["no claim was put", "attacked"]),
    ],
)  # fmt: skip
def test_what_was_not_tested_is_said(records: list[RunRecord], there: list[str], absent: list[str]) -> None:
    """If this failed, a reader would take what nobody tried for something that was tried and held."""
    text = said("Not tested: ", *records).text
    assert text.endswith(PROOF)
    assert [words for words in there if words not in text] == []
    assert [words for words in absent if words in text] == []


def test_a_report_that_tested_it_all_has_a_whole_sentence() -> None:
    """If this failed, the last sentence would read "Not tested: ." where nothing of its list is missing."""
    full = experiment(row(5, 0.3, **{"asr_top1_resend-sends16": 0.9}), model="one")
    records = [full, audit({"name": "a", "verdict": "CONSISTENT"}), people(person(0.6, 0.3), model="two")]
    last = sentences(records)[-1].text
    assert last.endswith(PROOF)
    assert "Not tested: ." not in last


def test_other_kinds_take_their_own_opening() -> None:
    """If this failed, a run that no rule speaks of would be missing from the first paragraph, or said twice."""
    tour = new_record("tsp", config={"model": "one"}, seed=0, rows=[{"table": "x"}, {"table": "y"}], provenance=ORIGIN)
    records = [tour, experiment(row(5))]
    found = sentences(records, ["The tour was short.", "The experiment's own words."])
    texts = [one.text for one in found]
    assert texts.count("The tour was short.") == 1
    assert "The experiment's own words." not in texts
    evidence = found[texts.index("The tour was short.")].evidence
    assert [(one.figure, one.value, one.of) for one in evidence] == [("rows", "2", "run 1")]
    (alone,) = [one.text for one in sentences([tour], ["The tour was short."]) if one.text.startswith("This report")]
    assert alone == "This report holds 1 run (tsp) on one, told in full below."


def test_an_interrupted_run_without_rows_is_spoken_of() -> None:
    """If this failed, a run that was broken off before its first figure would not be in the paragraph at all."""
    empty = dataclasses.replace(experiment(), remarks=["the run was broken off"])
    text = " ".join(one.text for one in sentences([empty, experiment(row(5))], ["Nothing was measured.", "More."]))
    assert "Nothing was measured." in text
    assert "1 run of this report came with a remark" in text


def test_the_basis_of_an_attack_that_is_not_known_says_so() -> None:
    """If this failed, a rate of unknown n would stand as if it rested on something."""
    bare = {"defence": "del", "mu": 5.0, "strongest_attack": "hmm", **spread("asr_strongest", 0.49)}
    found = sentences([experiment(bare | {"asr_top1_hmm": 0.49})])
    assert {one.basis for sentence in found for one in sentence.evidence if one.figure.startswith("asr")} == {
        f"n {NOT_MEASURED}"
    }


def test_names_are_escaped_and_the_table_holds() -> None:
    """If this failed, a defence's or a claim's name would be markup in the first thing that a manager reads."""
    evil = "a | <b>x</b> [l](http://e.vil)\n*b*"
    records = [
        experiment(row(5, 0.4, 0.1, defence=evil, settings=evil, epsilon_exact_token=3.0), model=evil),
        audit({"name": evil, "verdict": "REFUTED", "lower": 9.0, "defence": evil, "estimator": evil}),
        people(person(0.9, 0.001, task=evil)),
    ]
    text = "\n".join(plain_words(records))
    assert "<b>" not in text
    assert "](http" not in text.replace(r"\](http", "")
    assert "\n*b*" not in text
    lines = [line.replace(r"\|", "") for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {6}
