"""Trained nets: kept, read again, and asked for many images.

- `store`: folders of weights, and files of other programs
- `predictions`: activations, logits and classes of many images
- `importing`: weights of other programs as a folder
"""

from experiments.weights.predictions import (
    accuracy,
    activations,
    logits,
    predict,
    predicting,
)
from experiments.weights.store import (
    Array,
    Normalisation,
    Renormalised,
    Trained,
    described,
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
    "described",
    "fingerprint",
    "load",
    "logits",
    "predict",
    "predicting",
    "read",
    "save",
]
