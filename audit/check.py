"""Run the claims of a file: evidence for each, one verdict for each, one level for all."""

import hashlib
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from audit.bounds import OrderStatistic
from audit.claims import ClaimsFile, ClaimSpec, claim_lines, load_claims
from audit.gather import gather
from audit.guarantees import guarantee_of
from audit.ledger import Ledger, new_ledger, open_ledger
from audit.over_runs import accumulate
from audit.own_curve import own_curves, own_epsilons
from audit.probes.base import ProbeResult
from audit.provenance import code_digest
from audit.spending import Accumulated, holm, run_share
from audit.targets import Target, build_target
from audit.unfinished import Unfinished
from audit.verdict import AuditResult, Verdict, judge
from audit.witness import Background
from defenses.base import Claim
from defenses.errors import UserError
from defenses.randomness import seeded_rng

Gather = Callable[[Target, ClaimSpec, np.random.Generator], tuple[Claim, ProbeResult]]

_LEAST_SIMULATED = 5e-4
"""Below it a simulated p-value is slow and, in the end, too coarse: smaller levels get the exact test."""

COVERED = {
    "single-run": "over all claims of this run (Holm)",
    "alpha-spending": "over all claims and all runs counted by the state file (alpha spending, Holm in each run)",
    "e-values": "over all claims and all runs counted by the state file (e-values, Ville's inequality)",
}


@dataclass(frozen=True)
class Checked:
    """One claim of a file, checked.

    Attributes:
        spec: The claim.
        line: Of its header in the file, from 1.
        result: Its verdict; None where it could not be had.
        error: Why not; None where it could.
    """

    spec: ClaimSpec
    line: int
    result: AuditResult | None = None
    error: str | None = None


@dataclass(frozen=True)
class Outcome:
    """A whole file, checked.

    Attributes:
        path: The file.
        file: What it says.
        checked: In the order of the file.
        run: The run's number.
        level: What this run could spend over all claims; with e-values the whole family's.
    """

    path: Path
    file: ClaimsFile
    checked: tuple[Checked, ...]
    run: int
    level: float

    @property
    def results(self) -> list[AuditResult]:
        """The verdicts."""
        return [one.result for one in self.checked if one.result is not None]

    def exit_code(self, *, strict: bool = False) -> int:
        """1: a claim is refuted; else 2: one could not be tested; else 3: one is inconclusive, and strict; else 0."""
        verdicts = {result.verdict for result in self.results}
        if Verdict.REFUTED in verdicts:
            return 1
        if any(one.error is not None for one in self.checked):
            return 2
        return 3 if strict and Verdict.INCONCLUSIVE in verdicts else 0

    @property
    def covered(self) -> str:
        """What the level covers, in words."""
        error = self.file.error
        spent = f"; this is run {self.run}, at level {self.level:.3g}" if error.method == "alpha-spending" else ""
        counted = f"; this is run {self.run}" if error.method == "e-values" else ""
        return f"false alarms: at most {error.level:g} {COVERED[error.method]}{spent}{counted}"


def check(
    path: Path,
    *,
    changes: Sequence[str] = (),
    only: Sequence[str] = (),
    new_state: bool = False,
    quiet: bool = False,
    gather_with: Gather = gather,
) -> Outcome:
    """Check the claims of a file.

    Finished claims of a run that was broken off are kept and used when it is run again with the same code and claims.
    A claim that cannot be tested does not stop the others.

    Args:
        path: The claims file.
        changes: As for `load_claims`.
        only: Names of the claims to check; empty for all. The others keep their share of the level.
        new_state: Begin a new family of runs.
        quiet: No progress bar.
        gather_with: Draws the evidence.

    Raises:
        UserError: the file or its state is bad, or another check of it is running.
    """
    file = load_claims(path, changes)
    chosen = [file.pick(name) for name in only] or list(file.claims)
    lines = claim_lines(path.read_text(encoding="utf-8"))
    placed = (
        dict(zip((claim.name for claim in file.claims), lines, strict=False)) if len(lines) == len(file.claims) else {}
    )
    session = _Session(path, file, gather_with, quiet=quiet)
    if file.error.state is None:
        if new_state:
            raise UserError(f"{path}: --new-state is for a file whose error.method counts runs; this one is single-run")
        found, run, level = session.run(chosen, 1, file.error.level, {}), 1, file.error.level
    else:
        found, run, level = _counted(session, chosen, path.parent / file.error.state, new_state=new_state)
    checked = tuple(
        Checked(spec, placed.get(spec.name, 1), found.results.get(spec.name), found.errors.get(spec.name))
        for spec in chosen
    )
    return Outcome(path, file, checked, run, level)


def audit_claim(
    spec: ClaimSpec, target: Target, *, level: float, run: int = 1, gather_with: Gather = gather
) -> tuple[AuditResult, Claim, ProbeResult]:
    """Draw evidence for one claim and judge it at a level that is its own.

    Args:
        spec: The claim.
        target: What `build_target` made of it, or a caller's own.
        level: Probability of refuting it, were it true.
        run: Each run has draws of its own; the same run has the same ones.
        gather_with: Draws the evidence.

    Raises:
        UserError: the claim cannot be tested.
        EvidenceError: the mechanism raised, or gave what cannot be audited.
    """
    started = time.perf_counter()
    draws, judging = (seeded_rng(spec.seed, "claims", spec.name, run, stream) for stream in ("draws", "judging"))
    claim, probe = gather_with(target, spec, draws)
    result = judge(
        claim,
        probe.scores,
        name=spec.name,
        rng=judging,
        delta=spec.delta,
        level=level,
        estimator=None if level >= _LEAST_SIMULATED else OrderStatistic.name,
        violation=spec.violation,
        defence=spec.defense,
        through=probe.through,
        score=f"{probe.score}; {probe.inputs}",
        seed=None if spec.through == "wire" else spec.seed,  # a real client draws its own coins
        parameters={key: value for key, value in spec.parameters.items() if isinstance(value, int | float)},
        behind=None if spec.through == "attack" else _behind(target, probe),
    )
    own = own_epsilons(target.defense, spec.tokens, result.delta)
    curves = own_curves(target.defense, spec, result.points["curve_fpr"])
    result = replace(result, points={**result.points, **curves}, **own)
    return replace(result, seconds=time.perf_counter() - started), claim, probe


def _behind(target: Target, probe: ProbeResult) -> Background:
    """The two inputs of a probe, for the witness."""
    pair, text = probe.pair, target.defense.assets.text
    swapped = bool(probe.facts.get("swapped", False))
    return Background(pair.first, pair.second, swapped, probe.score, probe.sent, text)


@dataclass
class _Found:
    """What a run has so far; evidence is that of e-values."""

    results: dict[str, AuditResult]
    errors: dict[str, str]
    evidence: dict[str, Accumulated]


class _Session:
    """One run of one file."""

    def __init__(self, path: Path, file: ClaimsFile, gather_with: Gather, *, quiet: bool) -> None:
        self.path, self.file, self.gather, self.quiet = path, file, gather_with, quiet
        self.code = code_digest()

    def run(self, chosen: Sequence[ClaimSpec], run: int, level: float, past: Mapping[str, Accumulated]) -> _Found:
        """Every claim that is not finished yet, then the verdicts of all."""
        found, unfinished = _Found({}, {}, {}), Unfinished.beside(self.path, self.file.error.state)
        shares = self.file.shares
        with tqdm(total=len(chosen), unit="claim", desc="checking", leave=False, disable=self.quiet or None) as bar:
            for spec in chosen:
                bar.set_postfix_str(spec.name)
                try:
                    target = build_target(spec, self.path.parent)
                    key = self._key(spec, target, run, level)
                    kept = unfinished.get(spec.name, key)
                    if kept is None:
                        kept = self._one(spec, target, run, level * shares[spec.name], past.get(spec.name))
                        unfinished.put(spec.name, key, *kept)
                    found.results[spec.name], evidence = kept
                    if evidence is not None:
                        found.evidence[spec.name] = evidence
                except UserError as error:
                    found.errors[spec.name] = str(error)
                bar.update()
        self._settle(found, shares, level)
        unfinished.drop()
        return found

    def key(self, chosen: Sequence[ClaimSpec]) -> str:
        """Digest of code and claims: what makes two runs the same."""
        parts = [self.code, *(f"{claim.name}={claim.fingerprint}" for claim in chosen)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _key(self, spec: ClaimSpec, target: Target, run: int, level: float) -> str:
        """What one finished claim depends on; a third party's defence is no part of our own code."""
        share = level * self.file.shares[spec.name]
        parts = [
            self.code,
            _source(type(target.defense)),
            spec.fingerprint,
            self.file.error.method,
            str(run),
            repr(share),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _one(
        self, spec: ClaimSpec, target: Target, run: int, level: float, past: Accumulated | None
    ) -> tuple[AuditResult, Accumulated | None]:
        result, claim, probe = audit_claim(spec, target, level=level, run=run, gather_with=self.gather)
        if past is None:
            return result, None
        return accumulate(past, result, probe, guarantee_of(claim, spec.delta), spec)

    def _settle(self, found: _Found, shares: Mapping[str, float], level: float) -> None:
        """Holm's further steps; e-values need none."""
        if self.file.error.method == "e-values":
            return
        decisions = holm({name: one.p_value for name, one in found.results.items()}, shares, level)
        for name, decision in decisions.items():
            one = found.results[name]
            if decision.refuted and one.verdict is not Verdict.REFUTED:
                reason = (
                    f"the evidence contradicts the claim: p = {one.p_value:.2g} is within the "
                    f"{decision.alpha:.2g} that Holm's test leaves to it after other claims were refuted"
                )
                found.results[name] = replace(one, verdict=Verdict.REFUTED, alpha=decision.alpha, reason=reason)


def _counted(
    session: _Session, chosen: Sequence[ClaimSpec], state: Path, *, new_state: bool
) -> tuple[_Found, int, float]:
    """A run that the state file counts: reserved before it draws, closed when it is done."""
    error, shares = session.file.error, session.file.shares
    marks = {claim.name: f"{claim.fingerprint} {shares[claim.name]:.9f}" for claim in session.file.claims}

    def level_of(run: int) -> float:
        return error.level * run_share(run) if error.method == "alpha-spending" else error.level

    try:
        with FileLock(state.with_name(f".{state.name}.lock"), timeout=0):
            make: Callable[..., Ledger] = new_ledger if new_state else open_ledger
            ledger = make(state, session.path, error, marks).begin(session.key(chosen), level_of)
            ledger.write(state)
            night = ledger.current
            found = session.run(chosen, night.run, night.level, ledger.evidence)
            verdicts = {name: str(one.verdict) for name, one in found.results.items()} | dict.fromkeys(
                found.errors, "ERROR"
            )
            ledger.finish(verdicts, found.evidence).write(state)
    except Timeout as busy:
        raise UserError(f"{state}: another check is counting its run there: wait for it to end") from busy
    return found, night.run, night.level


def _source(kind: type) -> str:
    """The text of a class's module; its name where there is none."""
    try:
        module = inspect.getmodule(kind)
        return inspect.getsource(module) if module is not None else kind.__qualname__
    except (OSError, TypeError):
        return kind.__qualname__
