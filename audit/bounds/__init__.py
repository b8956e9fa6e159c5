"""Empirical lower bounds on epsilon: one estimator a file, one interface, numpy and scipy alone."""

from audit.bounds.base import Bound, CanaryScores, Estimator, EvidenceError, Scores
from audit.bounds.clopper_pearson import ClopperPearson
from audit.bounds.credible import Credible
from audit.bounds.families import AnyFamily, BinomialFamily, Family, GdpFamily
from audit.bounds.one_run import OneRun
from audit.bounds.one_run_fdp import OneRunFdp
from audit.bounds.order_statistic import OrderStatistic
from audit.bounds.whole_curve import WholeCurve

__all__ = [
    "ESTIMATORS",
    "AnyFamily",
    "BinomialFamily",
    "Bound",
    "CanaryScores",
    "ClopperPearson",
    "Credible",
    "Estimator",
    "EvidenceError",
    "Family",
    "GdpFamily",
    "OneRun",
    "OneRunFdp",
    "OrderStatistic",
    "Scores",
    "WholeCurve",
]

ESTIMATORS: dict[str, Estimator] = {
    one.name: one for one in (OrderStatistic(), ClopperPearson(), Credible(), WholeCurve(), OneRun(), OneRunFdp())
}
"""Every estimator by name; each is stateless."""
