"""Reads image sets, splits them, and makes batches and the input of nets.

- `splits`: the class of data sets: three splits, with mean and standard deviation
- `sets`: `load`: a data set by its name
- `folders`: TFDS folders
- `records`: images that stay in files
- `decoding`: decoding of image files
- `loading`: the order of images, and batches from the host
- `views`: the input of nets: normalised, cropped, mirrored
- `colour`: luminance and chrominance of colour images
- `preparing`: TFDS folders from the publishers' files
- `originals`, `downloads`: the formats of those files, and their download
"""

from experiments.data.loading import (
    Batches,
    batches,
    crops_at_random,
    draw_stimuli,
    from_host,
    identity,
    prefetch,
    stack,
)
from experiments.data.sets import for_students, load, stratified
from experiments.data.splits import DataMissing, Dataset, Split
from experiments.data.views import (
    augmentation,
    draw_crops_and_flips,
    normalise,
    on_device,
    view,
)

__all__ = [
    "Batches",
    "DataMissing",
    "Dataset",
    "Split",
    "augmentation",
    "batches",
    "crops_at_random",
    "draw_crops_and_flips",
    "draw_stimuli",
    "for_students",
    "from_host",
    "identity",
    "load",
    "normalise",
    "on_device",
    "prefetch",
    "stack",
    "stratified",
    "view",
]
