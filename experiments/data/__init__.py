"""Image sets: read, divided, streamed, and seen inside the compiled step.

- `splits`: what a set is: three splits, with mean and deviation
- `sets`: `load`: a set by its name
- `folders`: TFDS folders
- `records`: images that stay in files
- `decoding`: images from their files
- `loading`: the order of images, and batches from the host
- `views`: what nets see: normalised, cropped, mirrored
- `colour`: luminance and chrominance of images in colour
- `preparing`: sets from their publishers' files
- `originals`, `downloads`: those files, and how they are had
"""

from experiments.data.loading import (
    Batches,
    ahead,
    batches,
    crops_at_random,
    draws,
    from_host,
    identity,
    stack,
)
from experiments.data.sets import load, stratified
from experiments.data.splits import DataMissing, Dataset, Split
from experiments.data.views import augmentation, draw, normalise, on_device, view

__all__ = [
    "Batches",
    "DataMissing",
    "Dataset",
    "Split",
    "ahead",
    "augmentation",
    "batches",
    "crops_at_random",
    "draw",
    "draws",
    "from_host",
    "identity",
    "load",
    "normalise",
    "on_device",
    "stack",
    "stratified",
    "view",
]
