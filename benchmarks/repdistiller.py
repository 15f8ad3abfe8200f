"""Runs RepDistiller's released losses as contenders, in PyTorch, from a checkout.

They are imported unchanged from the checkout (github.com/HobbitLong/RepDistiller).
PyTorch runs on the CPU, with as many threads as JAX or with one, whichever is faster.
"""

import dataclasses
import functools
import importlib
import importlib.util
import operator
import pathlib
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from benchmarks import machine, measure


class Released(NamedTuple):
    """The modules of a checkout of RepDistiller."""

    losses: ModuleType
    memory: ModuleType
    criterion: ModuleType


def reason_to_do_without(folder: pathlib.Path) -> str | None:
    """Returns the reason why the released losses cannot be measured, or None."""
    if not (folder / "distiller_zoo").is_dir():
        return f"{folder} is no checkout of RepDistiller: it has no distiller_zoo"
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed"
    return None


def load(folder: pathlib.Path) -> Released:
    """Imports the modules of a checkout, and prepares PyTorch."""
    import torch

    warnings.simplefilter("ignore")  # The code was written for PyTorch 0.4.
    torch.set_num_threads(machine.cores())
    # (So that the cost of PyTorch's first call is not measured.)
    small = torch.ones(64, 64, requires_grad=True)
    torch.autograd.grad((small @ small).sum(), small)
    sys.path.insert(0, str(folder))
    released = Released(
        *map(importlib.import_module, ("distiller_zoo", "crd.memory", "crd.criterion"))
    )
    # (The class moves itself to a GPU, and takes seconds to draw indices, which are
    # given here.)
    memory: Any = released.memory
    memory.AliasMethod = _NoDraws
    return released


class _NoDraws:
    def __init__(self, probabilities):
        pass

    def cuda(self):
        pass


def contender(
    loss: Callable[..., Any], arguments: tuple, trained: tuple[int, ...] = (0,)
) -> measure.Contender:
    """Returns the value and the gradients of a released loss, as a contender.

    Args:
      loss: The loss, `loss(*tensors)`: a scalar, or a list of scalars to be summed.
      arguments: The arguments, arrays or lists of arrays; maps are `[batch, H, W, C]`.
      trained: The numbers of the arguments of the gradient.
    """
    tensors = [_tensors(x) for x in arguments]
    leaves = [leaf for i in trained for leaf in _listed(tensors[i])]
    return differentiated(lambda: loss(*tensors), leaves)


def differentiated(
    forward: Callable[[], Any],
    leaves: list,
    rest: Callable[[], list] = lambda: [],
) -> measure.Contender:
    """Returns the value of `forward` and its gradients, as a contender.

    Args:
      forward: The function that returns a scalar, or a list of scalars to be summed.
      leaves: The tensors of the gradient.
      rest: The function that returns the other tensors to compare.
    """
    import torch

    for leaf in leaves:
        leaf.requires_grad_()

    def call():
        value = forward()
        if isinstance(value, list):
            value = functools.reduce(operator.add, value)
        return value.detach(), torch.autograd.grad(value.sum(), leaves)

    def tune():
        # If another process uses a core, PyTorch's threads wait for each other longer
        # than a small loss takes.
        seconds = {}
        for threads in {1, torch.get_num_threads()}:
            torch.set_num_threads(threads)
            call()
            seconds[threads] = measure.quickest(call)
        torch.set_num_threads(min(seconds, key=lambda threads: seconds[threads]))

    def read(outcome):
        value, gradients = outcome
        arrays = [_array(x) for x in (*gradients, *rest())]
        return [np.asarray(value).reshape(()), *arrays]

    return measure.Contender(call, read, tune)


def kdsvd(released: Released) -> Callable[..., Any]:
    """Returns the released KDSVD, on one core.

    On two cores, the decompositions of PyTorch 2.13 sometimes took a minute or more
    instead of a tenth of a second.
    """
    import torch

    torch.set_num_threads(1)
    return released.losses.KDSVD()


def vid(released: Released, arguments: tuple) -> measure.Contender:
    """Returns the released VID, with the regressor that is part of it.

    Args:
      released: The modules.
      arguments: The student, the teacher, the log scale, and the three weights of the
        regressor.
    """
    student, teacher, log_scale, *weights = (_tensors(x) for x in arguments)
    channels = [student.shape[1], *(w.shape[1] for w in weights)]
    module = released.losses.VIDLoss(channels[0], channels[1], channels[3])
    module.log_scale.data = log_scale
    kernels = [module.regressor[i].weight for i in (0, 2, 4)]
    for kernel, weight in zip(kernels, weights, strict=True):
        kernel.data = weight.T[:, :, None, None].contiguous()
    found = differentiated(
        lambda: module(student, teacher), [student, module.log_scale, *kernels]
    )

    def read(outcome):
        value, student, log_scale, *kernels = found.read(outcome)
        # `[out, 1, 1, in]`, as maps are read, to `[in, out]`.
        return [value, student, log_scale, *(k[:, 0, 0].T for k in kernels)]

    return dataclasses.replace(found, read=read)


def crd(
    released: Released,
    student: np.ndarray,
    teacher: np.ndarray,
    bank: list[np.ndarray],
    indices: np.ndarray,
) -> measure.Contender:
    """Returns the released CRD on embeddings, with the update of its memory.

    Args:
      released: The modules.
      student: The unit embeddings of the student, `[batch, d]`.
      teacher: The unit embeddings of the teacher, `[batch, d]`.
      bank: The banks of student and teacher, each `[n, d]`.
      indices: The rows of positives and negatives, `[batch, K + 1]`, the positive
        first.
    """
    import torch

    student, teacher, *rows = (_tensors(x) for x in (student, teacher, *bank))
    places = torch.from_numpy(indices.astype(np.int64))
    index = places[:, 0].contiguous()
    (n, units), draws = rows[0].shape, places.shape[1] - 1
    memory = released.memory.ContrastMemory(units, n, draws, 0.07, 0.5)
    memory.memory_v1, memory.memory_v2 = rows
    criterion = released.criterion.ContrastLoss(n)

    def forward():
        scores = memory(student, teacher, index, places)
        return [criterion(s) for s in scores]

    def updated():
        return [memory.memory_v1[index], memory.memory_v2[index]]

    return differentiated(forward, [student, teacher], updated)


def _tensors(x):
    """Converts arrays to tensors, with maps as `[batch, C, H, W]`."""
    import torch

    if isinstance(x, list | tuple):
        return [_tensors(y) for y in x]
    tensor = torch.from_numpy(x.copy())
    return tensor.permute(0, 3, 1, 2).contiguous() if x.ndim == 4 else tensor


def _listed(x) -> list:
    return x if isinstance(x, list) else [x]


def _array(tensor) -> np.ndarray:
    if tensor.ndim == 4:
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.detach().numpy()
