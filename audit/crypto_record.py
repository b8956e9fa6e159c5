"""The names in a record of encrypted generation: what reports read, and what `audit.crypto_costs` writes."""

KIND = "crypto"
COSTS, MODELS, OPERATORS, ENGINES = "cost", "model", "operator", "engine"
"""The column "table" of a row: one generated token's cost, a trained model, one operator alone, an engine."""
MEASURED = "measured"
COMPOSED = "composed of operators"
EXTRAPOLATED = "extrapolated from operators"
"""The column "basis" of a cost: the whole program ran; its operators ran; those of a model too large to run ran."""
IN_FULL, CACHED = "in full", "cached"
"""The column "accounting": every position again for each token, or keys and values kept as shares."""
NETWORKS = {"lan": (0.0005, 1e9), "wan": (0.04, 1e8)}
"""Networks that times are computed for: seconds of one round, and bits per second. Examples, not measurements: parties
in one process have neither delay nor a limit of bandwidth."""

RIVAL, OVER_RIVAL = "mpcformer", "ratio_seconds_mpcformer"
"""The approximated model that MERGE's paper compares with, and the column of seconds of it over a system's own."""

VIEWS = "crypto-views"
INDEPENDENCE, INVERSION, DEALER = "independence", "inversion", "dealer"
"""The column "table" of a row of views: one test, what one share gives away, what the dealer of triples reads."""
