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
    select,
    similarity,
    summarise,
)
from experiments.brain.targets import teacher, weighted_terms, with_stimuli

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
    "select",
    "with_stimuli",
    "similarity",
    "size",
    "summarise",
    "teacher",
    "weighted_terms",
]
