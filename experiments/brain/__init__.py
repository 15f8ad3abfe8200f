"""Uses a brain as the teacher: stimuli, measured RDMs, and the agreement of nets.

- `source`: the file of stimuli and RDMs, and its division into shown and held out
- `targets`: terms and targets of a step
- `summary`: agreement of nets with brains
- `markdown`: tables
- `plots`: figures
"""

from experiments.brain.source import (
    Brain,
    divide,
    layers,
    load,
    names,
    parts,
    read,
    size,
)
from experiments.brain.summary import (
    ceilings,
    progress,
    rdms,
    select,
    similarity,
    subject_rdms,
    summarise,
)
from experiments.brain.targets import teacher, weighted_terms, with_stimuli

__all__ = [
    "Brain",
    "ceilings",
    "divide",
    "layers",
    "load",
    "names",
    "parts",
    "progress",
    "rdms",
    "read",
    "select",
    "similarity",
    "size",
    "subject_rdms",
    "summarise",
    "teacher",
    "weighted_terms",
    "with_stimuli",
]
