"""A brain as the teacher: stimuli, their measured RDMs, and what nets make of them.

- `source`: the file of stimuli and RDMs, and its division
- `targets`: terms and targets of a step
- `summary`: agreement of nets with brains
- `markdown`: tables
- `plots`: pictures
"""

from experiments.brain.source import Brain, layers, load, names, parts, size
from experiments.brain.summary import (
    ceilings,
    each,
    progress,
    rdms,
    selected,
    similarity,
    summarise,
)
from experiments.brain.targets import showing, teacher, weighted_terms

__all__ = [
    "Brain",
    "ceilings",
    "each",
    "layers",
    "load",
    "names",
    "parts",
    "progress",
    "rdms",
    "selected",
    "showing",
    "similarity",
    "size",
    "summarise",
    "teacher",
    "weighted_terms",
]
