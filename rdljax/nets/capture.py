"""Captures activations of any Flax model, Linen or NNX, without changing the model.

`linen` and `nnx` return a net that can be used wherever the library takes one: as a
student (`training.init`, `training.make_step`) and as a teacher (`teachers.net`).
`report` lists the activations that can be captured, by their names:

=================== =================================================================
`encoder/block_0`   output of the module at this path
`encoder/block_0#1` output of its second call; `#2`: of its third call
`attention[1]`      one of several output arrays: by index, key or field
`layers/mlp[3]`     fourth output stacked on axis 0 by Linen's `nn.scan` or `nn.vmap`
`block_0/features`  intermediate of this name that a module sows
`""`                output of the model; `[logits]`: its entry of this key
=================== =================================================================

In a pattern, `*` matches any characters except "/", `**` any characters, and `?` one
character except "/". Only outputs of `__call__` of modules can be captured: a function
such as `nn.relu` is not a module. A module with two names has the alphabetically first.
Flax itself refuses to trace a model with an `nn.cond` whose branches call different
modules.
"""

import collections
import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
from flax import traverse_util
from flax.core import scope

from rdljax.nets import _sites
from rdljax.nets._sites import Report, Row

__all__ = ["LinenNet", "NNXNet", "Report", "Row", "linen", "nnx", "report"]

Array = jax.Array
PyTree = Any
# `call(model, images, train)` returns the output of the model.
Call = Callable[[Any, PyTree, bool], PyTree]


class _Net:
    places: tuple[tuple[str, _sites.Place], ...]
    _outputs: Callable[..., tuple[Any, Any]]
    _find_sites: Callable[[PyTree], _sites.Sites]

    @property
    def layers(self) -> tuple[str, ...]:
        """Returns the names of the activations in the order of computation."""
        return tuple(name for name, _ in self.places)

    def apply(
        self,
        variables: PyTree,
        images: PyTree,
        train: bool = False,
        mutable: bool | Sequence[str] = False,
        rngs: Mapping[str, Array] | None = None,
    ) -> dict[str, Array] | tuple[dict[str, Array], dict[str, PyTree]]:
        """Returns activations by name, and with `mutable` the updated collections.

        Args:
          variables: Variables from `init`.
          images: Input of the model.
          train: Whether to run in training mode.
          mutable: Collections that may change, which are then also returned.
          rngs: Keys of the random streams, by name.

        Raises:
          ValueError: A captured module is not called in this mode.
        """
        outputs, updates = self._outputs(variables, images, train, mutable, rngs)
        selected = _sites.select(self.places, outputs)
        return selected if mutable is False else (selected, updates)

    def _paths(self) -> set[str]:
        return {place.path for _, place in self.places}


@dataclasses.dataclass(frozen=True)
class LinenNet(_Net):
    """A Linen module as a net of its activations: see `linen`."""

    module: flax.linen.Module
    call: Call
    places: tuple[tuple[str, _sites.Place], ...] = ()

    def init(self, key: Array, images: PyTree) -> PyTree:
        """Returns the model's own variables."""
        return self.module.init(key, images, False, method=self.call)

    def _outputs(self, variables, images, train, mutable, rngs):
        paths = self._paths()

        def keep(module, method):
            return method == "__call__" and "/".join(module.path) in paths

        chosen = {"train": train, "mutable": mutable, "rngs": rngs}
        return self._run(variables, images, keep, **chosen)

    def _find_sites(self, images: PyTree) -> _sites.Sites:
        """Lists the activations that can be captured."""
        log: list[_sites.Called] = []

        def note(method, args, kwargs, context):
            output = method(*args, **kwargs)
            if context.method_name == "__call__":
                path, kind = "/".join(context.module.path), type(context.module)
                log.append(_sites.Called(path, kind.__name__, _sites.shapes_of(output)))
            return output

        def run(variables, images):
            with flax.linen.intercept_methods(note):
                return self._run(variables, images, True)[0]

        variables = jax.eval_shape(self.init, jax.random.key(0), images)
        outputs = jax.eval_shape(run, variables, images)
        return _sites.name_outputs(log, outputs, type(self.module).__name__)

    def _run(self, variables, images, keep, *, train=False, mutable=False, rngs=None):
        output, updates = self.module.apply(
            {k: v for k, v in variables.items() if k != "intermediates"},
            images,
            train,
            method=self.call,
            rngs=rngs,
            mutable=scope.union_filters(mutable, "intermediates"),
            capture_intermediates=keep,
        )
        sown = traverse_util.flatten_dict(updates.get("intermediates", {}))
        updates = {k: v for k, v in updates.items() if k != "intermediates"}
        return _sites.by_path(sown, output), updates


# Compared by identity, since it holds arrays.
@dataclasses.dataclass(frozen=True, eq=False)
class NNXNet(_Net):
    """An NNX model as a net of its activations: see `nnx`."""

    model: flax.nnx.Module  # A copy of the user's model; it is never called.
    call: Call
    places: tuple[tuple[str, _sites.Place], ...] = ()

    @property
    def variables(self) -> dict[str, PyTree]:
        """Returns the variables of the given model, as nested dicts of its arrays."""
        return _collections(self.model)

    def init(self, key: Array | None = None, images: PyTree = None) -> PyTree:
        """Returns a copy of the model's variables; key and images are ignored."""
        # A copy, since training donates its state.
        return jax.tree.map(jnp.copy, self.variables)

    def __call__(
        self, model: flax.nnx.Module, images: PyTree, *, train: bool
    ) -> dict[str, Array]:
        """Calls an NNX model and returns its activations by name, for NNX programs.

            def loss(model, images, targets):
                seen = net(model, images, train=True)
                return objectives.rdl(seen["stage1"], targets)

            value, gradient = nnx.value_and_grad(loss)(model, images, targets)

        Args:
          model: A model of the same class and structure as the one given to `nnx`, such
            as that one. Its variables change as when it is called itself: running
            statistics are updated in training mode, and random streams advance. But
            variables that the call would add, which are those that its modules sow for
            the first time, are not added; captured ones are in the returned dict.
          images: Input of the model.
          train: Whether to run in training mode, whatever the mode of the model, which
            stays as it is.

        Raises:
          ValueError: A captured module is not called in this mode.
        """
        # Of a copy, since its modules get other classes.
        copy = flax.nnx.clone(model)
        selected = _sites.select(self.places, self._kept_outputs(copy, images, train))
        before = dict(flax.nnx.to_flat_state(flax.nnx.state(model)))

        # Others may be constants of the transform in which the model is called.
        def has_changed(path, variable):
            own = before.get(path)
            return own is not None and variable.get_value() is not own.get_value()

        flax.nnx.update(model, flax.nnx.state(copy, has_changed))
        return selected

    def merge(self, variables: Mapping[str, PyTree]) -> flax.nnx.Module:
        """Returns a model with the given variables.

        Raises:
          ValueError: The variables do not have the structure of the model's.
        """
        got: Any = jax.tree.structure(dict(variables))
        expected = jax.tree.structure(self.variables)
        if got != expected:
            raise ValueError(f"expected variables {expected}, got {got}")
        model = flax.nnx.clone(self.model)
        for collection in variables.values():
            flax.nnx.update(model, collection)
        return model

    def _outputs(self, variables, images, train, mutable, rngs):
        model = self.merge(variables)
        if rngs:
            _reseed(model, rngs)
        outputs = self._kept_outputs(model, images, train)
        updates = _collections(model).items()
        return outputs, {k: v for k, v in updates if scope.in_filter(mutable, k)}

    def _kept_outputs(self, model, images, train):
        """Runs a model, whose modules get other classes, and returns the outputs."""
        paths = self._paths()
        for path, module in _callables(model):
            if path in paths:
                _note_calls(module, _keep)
        return self._run(model, images, train)

    def _find_sites(self, images: PyTree) -> _sites.Sites:
        """Lists the activations that can be captured, unless lost in a transform."""
        log: list[_sites.Called] = []

        def note(path, kind, module, output):
            log.append(_sites.Called(path, kind, _sites.shapes_of(output)))

        def run(variables, images):
            model = self.merge(variables)
            for path, module in _callables(model):
                kind = type(module).__name__
                _note_calls(module, functools.partial(note, path, kind))
            return self._run(model, images)

        outputs = jax.eval_shape(run, self.variables, images)
        # From the log, not by `_keep`, which some transforms do not support.
        calls: dict[str, list[PyTree]] = collections.defaultdict(list)
        for called in log:
            calls[called.path].append(called.shapes)
        return _sites.name_outputs(log, calls | outputs, type(self.model).__name__)

    def _run(self, model, images, train=False):
        if train:
            model.train()
        else:
            model.eval()
        output, *kept = flax.nnx.capture(
            lambda model: self.call(model, images, train),
            flax.nnx.Intermediate,
            _Kept,
        )(model)
        sown = {
            path: variable.get_value()
            for state in kept
            for path, variable in flax.nnx.to_flat_state(state)
        }
        return _sites.by_path(sown, output)


def linen(
    module: flax.linen.Module,
    taps: _sites.Taps,
    images: PyTree,
    *,
    call: Call | None = None,
) -> LinenNet:
    """Wraps a Linen module as a net that returns its activations.

        net = capture.linen(model, {"stage1": "encoder/*0", "logits": ""}, images)
        variables = net.init(key, images)  # Or pretrained variables, unchanged.
        net.apply(variables, images)["stage1"]

    Args:
      module: The model. Its variables keep their structure.
      taps: The activations to capture (see `report`): a dict from names to patterns,
        each of which matches one path; or a list of patterns, for activations named by
        their paths.
      images: An example of the input; only shapes and dtypes are used
        (`jax.ShapeDtypeStruct` is enough), to trace the calls of the model.
      call: Function `call(model, images, train)` that calls the model. By default, the
        model is called with `train=train` or with `deterministic=not train`, if it
        takes such an argument.

    Raises:
      UnknownName: No activation has a path that matches.
      ValueError: Several paths match the pattern of a name, or the match is inside a
        transform that does not return it.
    """
    net = _net(module, call, flax.linen.Module)
    sites = net._find_sites(images)
    return dataclasses.replace(net, places=_sites.places_of(taps, sites))


def nnx(
    model: flax.nnx.Module,
    taps: _sites.Taps,
    images: PyTree,
    *,
    call: Call | None = None,
) -> NNXNet:
    """Wraps an NNX model as a net that returns its activations.

        net = capture.nnx(model, ["blocks/*", ""], images)
        seen = net(model, images, train=True)  # In a loop of NNX: see `NNXNet`.
        teacher = teachers.net(net, net.variables)  # In a loop of `training`.
        model = net.merge(variables)  # An NNX model again, after that.

    The model is copied; only `net(model, ...)` changes it. Its variables are
    `{"params": ..., "model_state": ...}`: all its `nnx.Param`, and all others, such as
    running statistics. Its random streams are kept separately. `apply(...,
    rngs={"dropout": key})` reseeds them, streams without a key in `rngs` from the first
    key; without `rngs`, the model's own keys give the same random numbers in every
    call.

    Args:
      model: The model; `init` returns its current values.
      taps: As for `linen`.
      images: As for `linen`.
      call: As for `linen`. The model is set to training or evaluation mode before.

    Raises:
      UnknownName: As for `linen`.
      ValueError: As for `linen`; activations inside `nnx.scan` or `nnx.vmap` are
        refused.
    """
    net = _net(model, call, flax.nnx.Module)
    sites = net._find_sites(images)
    net = dataclasses.replace(net, places=_sites.places_of(taps, sites))
    shapes = {site[1]: site[0].shape for site in sites.values() if site}
    seen = jax.eval_shape(net.apply, net.variables, images)
    for name, place in net.places:
        if seen[name].shape != shapes[place]:
            raise ValueError(_sites.explain_loss(place.path))
    return net


def report(
    model: flax.linen.Module | flax.nnx.Module | LinenNet | NNXNet,
    images: PyTree,
    *,
    call: Call | None = None,
) -> Report:
    """Lists the activations of a model that can be captured, in order of computation.

        print(capture.report(model, jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")))

    Args:
      model: A Linen module, an NNX model, or a net from `linen` or `nnx`; it is only
        traced.
      images: An example of the input; only shapes and dtypes are used.
      call: As for `linen`.
    """
    if isinstance(model, _Net):
        net = model
    else:
        net = _net(model, call, flax.linen.Module, flax.nnx.Module)
    return Report(site[0] for site in net._find_sites(images).values() if site)


def _net(model, call: Call | None, *kinds: type) -> Any:
    if not isinstance(model, kinds):
        names = " or ".join(f"{kind.__module__}.{kind.__name__}" for kind in kinds)
        raise TypeError(f"expected a {names}, got {type(model).__name__}")
    if call is None:
        known = inspect.signature(type(model).__call__).parameters
        call = next((_CALLS[name] for name in _CALLS if name in known), _as_it_is)
    if isinstance(model, flax.linen.Module):
        return LinenNet(model, call)
    model = flax.nnx.clone(model)
    flax.nnx.pop(model, flax.nnx.Intermediate)  # From previous calls.
    return NNXNet(model, call)


def _with_train(model, images, train):
    return model(images, train=train)


def _with_deterministic(model, images, train):
    return model(images, deterministic=not train)


def _as_it_is(model, images, train):
    return model(images)


_CALLS = {"train": _with_train, "deterministic": _with_deterministic}


def _collections(model: flax.nnx.Module) -> dict[str, PyTree]:
    # Keys of random streams cannot be averaged over devices, as training does.
    aside = (flax.nnx.RngState, flax.nnx.Intermediate)
    params, _, state = flax.nnx.state(model, flax.nnx.Param, aside, ...)
    return {
        "params": flax.nnx.to_pure_dict(params),
        "model_state": flax.nnx.to_pure_dict(state),
    }


def _reseed(model: flax.nnx.Module, rngs: Mapping[str, Array]) -> None:
    nodes = (node for _, node in flax.nnx.iter_graph(model))
    tags = {node.tag for node in nodes if isinstance(node, flax.nnx.RngStream)}
    first = next(iter(rngs.values()))
    keys = {
        tag: rngs[tag] if tag in rngs else jax.random.fold_in(first, i)
        for i, tag in enumerate(sorted(tags))
    }
    flax.nnx.reseed(model, policy="match_shape", **keys)  # type: ignore[arg-type]


class _Kept(flax.nnx.Variable):
    """The output of a module, as a variable so that NNX transforms return it."""


def _keep(module, output):
    module.sow(_Kept, "__call__", output)


def _callables(model: flax.nnx.Module) -> list[tuple[str, flax.nnx.Module]]:
    return [
        ("/".join(map(str, path)), module)
        for path, module in flax.nnx.iter_modules(model)
        if path and callable(module)
    ]


def _note_calls(module: flax.nnx.Module, note: Callable[[Any, PyTree], None]) -> None:
    """Makes each call of a module also call `note(module, output)`.

    The module gets a new class, where Python looks up `__call__`; the user's class is
    not changed. (`nnx.capture(method_outputs=...)` would miss inherited methods.) The
    copies that NNX transforms make keep the class and the note.
    """
    object.__setattr__(module, "__class__", _noting_class(type(module)))
    module._note = note  # type: ignore[attr-defined]


@functools.cache
def _noting_class(kind: type) -> type:
    pytree = getattr(kind, "_pytree__is_pytree", True)

    class Noting(kind, pytree=pytree):  # type: ignore
        def __call__(self, *args, **kwargs):
            output = kind.__call__(self, *args, **kwargs)
            self._note(self, output)
            return output

    Noting.__name__ = kind.__name__
    return Noting
