"""Saves and loads trained nets, and predicts many images with them.

- `store`: folders of weights, and files of other programs
- `predictions`: activations, logits and classes of many images
- `importing`: conversion of other programs' weights to a folder
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
    TrainedNet,
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
    "TrainedNet",
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
