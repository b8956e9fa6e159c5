"""Where an audit looks: two neighbouring inputs, many views, one score a view. docs/probes.md explains it."""

from audit.probes.base import Draws, Inputs, ProbeResult, Target
from audit.probes.collect import THROUGH, collect
from audit.probes.mechanism import DefenseTarget, corner_assets
from audit.probes.metric import at_distance, metric_inputs
from audit.probes.prompts import all_sends, repeated_sends, replace_one, variants, whole_prompt
from audit.probes.vocabulary import PairSearch, TokenPair, search_pair, stratified_pairs

__all__ = [
    "THROUGH",
    "DefenseTarget",
    "Draws",
    "Inputs",
    "PairSearch",
    "ProbeResult",
    "Target",
    "TokenPair",
    "all_sends",
    "at_distance",
    "collect",
    "corner_assets",
    "metric_inputs",
    "repeated_sends",
    "replace_one",
    "search_pair",
    "stratified_pairs",
    "variants",
    "whole_prompt",
]
