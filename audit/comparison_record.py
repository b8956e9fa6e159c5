"""The names in a comparison's record: what reports read, and what a comparison writes."""

KIND = "comparison"
UTILITIES = {"agreement_top1": 1, "coherence": 1, "mauve": 1, "perplexity_over_clean": -1, "perplexity": -1}
"""Figures that contenders may be ranked by; -1 where less is better."""
NO_PROMPT = "no prompt at all"
"""Who is met in a paired difference where a contender is compared with a server that sees no prompt."""
WITHOUT = "_without_prompt_text"
"""What the figures of that server end with."""
