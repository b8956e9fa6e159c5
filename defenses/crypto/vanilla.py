"""The vanilla encrypted transformer: every operator as the model was trained, computed under encryption.

It is the reference that every ratio refers to, on the same engine and in the same run. It is given what a competent
implementation would use: one product for queries, keys and values, the head on the last position alone, and the
embedding of a generated token computed once and kept as a share.
"""

from defenses.crypto.system import System

SYSTEMS = (
    System(
        name="vanilla",
        title="Vanilla",
        softmax="exact",
        activation="exact",
        norm="exact",
        resending=False,
        source="Radford et al. 2019 (GPT-2); Touvron et al. 2023 (Llama); Vaswani et al. 2017, eq. 1",
    ),
)
