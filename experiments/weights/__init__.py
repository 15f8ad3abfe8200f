"""Trained nets: kept, read again, and asked for many images.

- `store`: folders of weights, and files of other programs
- `predictions`: activations, logits and classes of many images
- `importing`: weights of other programs as a folder
"""

from experiments.weights.predictions import (
    accuracy,
    activations,
    begin_predicting,
    logits,
    predict,
)
from experiments.weights.store import (
    Array,
    Normalisation,
    Renormalised,
    Trained,
    describe_normalisation,
    fingerprint,
    load,
    read,
    save,
)

__all__ = [
    "Array",
    "Normalisation",
    "Renormalised",
    "Trained",
    "accuracy",
    "activations",
    "describe_normalisation",
    "fingerprint",
    "load",
    "logits",
    "predict",
    "begin_predicting",
    "read",
    "save",
]
