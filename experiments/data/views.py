"""Makes the input of nets: normalises, crops and mirrors in the compiled step."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import originals, records, splits


def augmentation(dataset: splits.Dataset) -> dict[str, Any]:
    """Returns the usual arguments `crop` and `flip` of `view` for a data set.

    Args:
      dataset: The data set, from `load`.

    Returns:
      The `augmentation` of the data set in `originals.SOURCES`, if it is there and has
      one; otherwise flips for images that vary in size, and neither for all others.
    """
    source = originals.SOURCES.get(dataset.name)
    if source is not None and source.augmentation is not None:
        return dict(source.augmentation)
    images = dataset.train.image
    return {"crop": 0, "flip": isinstance(images, records.Records) and images.varied}


def normalise(dataset: splits.Dataset, images: np.ndarray | jax.Array) -> jax.Array:
    """Subtracts the mean of the training images and divides by their std.

    Args:
      dataset: The data set with that `mean` and `std`.
      images: The images, uint8 `[..., H, W, C]`.

    Returns:
      The images, float32 of the same shape, or resized to the data set's `size`.
    """
    shape = (1,) * (images.ndim - 1) + (-1,)
    mean = jnp.asarray(dataset.mean, jnp.float32).reshape(shape)
    std = jnp.asarray(dataset.std, jnp.float32).reshape(shape)
    seen = (jnp.asarray(images).astype(jnp.float32) - mean) / std
    if dataset.size in (None, seen.shape[-3:-1]):
        return seen
    return jax.image.resize(seen, (*seen.shape[:-3], *dataset.shape), "linear")


def view(
    dataset: splits.Dataset, *, crop: int = 0, flip: bool = False
) -> Callable[[Any, Mapping[str, jax.Array], jax.Array], dict[str, jax.Array]]:
    """Returns the view of a training step: the function that prepares its images.

    Args:
      dataset: The data set with the normalisation to apply.
      crop: The number of black pixels that pad each side before a random crop of the
        original size; 0 for no crop.
      flip: Whether images are mirrored left to right at random, with probability 1/2.

    Returns:
      `view(arrays, batch, key)`: `arrays` has `image` uint8 `[N, H * W * C]` (or
      `[N, H, W, C]`, which an accelerator copies in every call to a padded layout of
      four times the size) and `label` int32 `[N]`; `batch` has `index` int32 `[B]`
      (and, if it is from a loader such as `from_host`, `image` and `label`, which are
      used instead of `arrays`). It returns `image` float32 `[B, H, W, C]`, `label`
      `[B]` and `index` `[B]`, and `targets` unchanged, if the batch has a teacher's
      targets. An example's crop and flip depend only on the key and its index, not on
      its place in the batch or the number of devices: give every device the same key,
      and every step a different one.

    Raises:
      ValueError: If the crop is negative.
    """
    if crop < 0:
        raise ValueError(f"crop is a number of pixels, not {crop}")

    def apply(
        arrays: Any, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> dict[str, jax.Array]:
        index = batch["index"]
        if "image" in batch:
            image, label = batch["image"], batch["label"]
        else:
            image, label = arrays["image"][index], arrays["label"][index]
            image = image.reshape(*index.shape, *dataset.train.image.shape[1:])
        if crop or flip:
            corner, mirrored = draw_crops_and_flips(key, index, crop)
            image = _cut(image, corner, mirrored, crop, flip)
        seen = {
            "image": normalise(dataset, image),
            "label": label,
            "index": index,
        }
        return seen | {name: batch[name] for name in {"targets"} & batch.keys()}

    return apply


def on_device(split: splits.Split) -> dict[str, np.ndarray]:
    """Returns the images and labels of a split as the `arrays` of `view`.

    Returns:
      `image` uint8 `[N, H * W * C]` and `label` int32 `[N]`.
    """
    image = np.asarray(split.image)
    return {"image": image.reshape(len(image), -1), "label": split.label}


def draw_crops_and_flips(
    key: jax.Array, index: jax.Array, crop: int
) -> tuple[jax.Array, jax.Array]:
    """Draws each example's crop and flip from the key and its index.

    Args:
      key: The key of the step.
      index: The examples' places in the data set, int32 `[B]`.
      crop: The number of pixels of padding on each side.

    Returns:
      The crops' corners in the padded images, int32 `[B, 2]` in 0..2*crop (row,
      column), and whether images are mirrored, bool `[B]`.
    """

    def one(i):
        crop_key, flip_key = jax.random.split(jax.random.fold_in(key, i))
        corner = jax.random.randint(crop_key, (2,), 0, 2 * crop + 1)
        return corner, jax.random.bernoulli(flip_key)

    return jax.vmap(one)(index)


def _cut(
    image: jax.Array, corner: jax.Array, mirrored: jax.Array, crop: int, flip: bool
) -> jax.Array:
    """Crops images at their corners, and mirrors some of them.

    Args:
      image: The images, uint8 `[B, H, W, C]`.
      corner: The corners of the crops, from `draw_crops_and_flips`.
      mirrored: Whether images are mirrored, from `draw_crops_and_flips`.
      crop: The number of black pixels on each side.
      flip: Whether images are mirrored.
    """
    if not crop:
        flipped = image[:, :, ::-1]
        return jnp.where(mirrored[:, None, None, None], flipped, image)
    if not flip:
        mirrored = jnp.zeros_like(mirrored)
    # On an accelerator a slice per image is a loop, while matrix products cost little.
    slices, products = _cut_by_slices(crop), _cut_by_products(crop)
    return jax.lax.platform_dependent(
        image, corner, mirrored, cpu=slices, default=products
    )


def _cut_by_slices(crop: int) -> Callable[..., jax.Array]:
    """Returns a function that crops images by a slice of each."""

    def cut(image, corner, mirrored):
        padded = jnp.pad(image, ((0, 0), (crop, crop), (crop, crop), (0, 0)))

        def one(image, corner):
            start = (corner[0], corner[1], jnp.zeros_like(corner[0]))
            return jax.lax.dynamic_slice(image, start, shape)

        shape = image.shape[1:]
        found = jax.vmap(one)(padded, corner)
        return jnp.where(mirrored[:, None, None, None], found[:, :, ::-1], found)

    return cut


def _cut_by_products(crop: int) -> Callable[..., jax.Array]:
    """Returns a function that crops images by two products with one-hot rows.

    The numbers of uint8 are exact in bfloat16, in which an accelerator multiplies.
    """

    def cut(image, corner, mirrored):
        _, height, width, _ = image.shape
        rows = corner[:, :1] + jnp.arange(height)[None] - crop
        columns = corner[:, 1:] + jnp.arange(width)[None] - crop
        columns = jnp.where(mirrored[:, None], columns[:, ::-1], columns)
        # (The row of a place outside the image is all zeros: the pixel is black.)
        of_row, of_column = (
            (places[:, :, None] == jnp.arange(size)[None, None]).astype(jnp.bfloat16)
            for places, size in ((rows, height), (columns, width))
        )
        seen = image.astype(jnp.bfloat16)
        seen = jnp.einsum("brh,bhwc->brwc", of_row, seen)
        return jnp.einsum("bsw,brwc->brsc", of_column, seen).astype(jnp.uint8)

    return cut
