"""Helpers that the checks of all families share: components, numbers, devices."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import pickle
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from clipjax import help_pages, registry
from clipjax.engine import sharding
from clipjax.types import UserError

# Checks compile much and compute little: without optimisation they take a third of
# the time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Check(NamedTuple):
    """name: what the component must do. run: raises if it does not."""

    name: str
    run: Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Component:
    """A factory under test and the options for its call."""

    family: str
    factory: Callable[..., Any]
    options: Mapping[str, Any]

    def make(self, *args: Any, **more: Any) -> Any:
        return self.factory(*args, **{**self.options, **more})

    def has(self, option: str) -> bool:
        return option in registry.options(self.factory)

    def constant(self, name: str) -> Any:
        """A constant of the component's module, None if it is not declared."""
        return registry.module_of(self.factory, name)

    @property
    def name(self) -> str:
        """The name by which a config chooses the component."""
        module = self.factory.__module__
        known = registry.FAMILIES[self.family]
        if module == known:
            return self.factory.__name__
        return module.removeprefix(f"{known}.")


def component(
    family: str, name: str | Callable[..., Any], options: Mapping[str, Any]
) -> Component:
    """The component of a name, a dotted module or a factory.

    Raises UserError if the component does not exist, lacks an option, or an option's
    value has the wrong type.
    """
    factory = registry.load(family, name) if isinstance(name, str) else name
    known = registry.options(factory)
    typed = {}
    for option, value in options.items():
        if option not in known:
            raise UserError(
                f"{family}: no option {option!r}.{registry.suggest(option, known)} "
                f"Known: {', '.join(known)}"
            )
        typed[option] = registry.check_type(value, known[option].annotation, option)
    return Component(family, factory, typed)


def must(condition: Any, message: str) -> None:
    """Raises AssertionError with the message unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def run(checks: Iterable[Check]) -> None:
    """Runs checks in order; the first failure raises."""
    for check in checks:
        check.run()


def pickle_copy(subject: Any, what: str) -> Any:
    """A pickled copy, as another process gets it; what: its name for the message."""
    try:
        return pickle.loads(pickle.dumps(subject))
    except Exception as error:
        raise AssertionError(f"{what} cannot be pickled: {error}") from error


def options_are_documented(subject: Component) -> None:
    """Each option must have a type, a default of that type and a docstring line."""
    try:
        known = registry.options(subject.factory)
    except TypeError as error:
        raise AssertionError(str(error)) from error
    for name, option in known.items():
        try:
            registry.check_type(option.default, option.annotation, name)
        except UserError as error:
            raise AssertionError(f"the default of an option: {error}") from error
    lines = help_pages.meanings(subject.factory)
    missing = [name for name in known if not lines.get(name)]
    must(
        not missing,
        f"options without a line in the docstring: {', '.join(missing)}; write one "
        "under Args, such as '  NAME: what it does'",
    )
    docstring = inspect.getdoc(subject.factory)
    must(docstring, "the factory has no docstring: say what it makes")


def finite(tree: Any, what: str) -> None:
    """Raises AssertionError, naming the leaf, if a number is not finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not np.isfinite(np.asarray(leaf, np.float64)).all():
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            raise AssertionError(f"{what}: {where or 'the value'} is not finite")


def gap(one: Any, other: Any) -> float:
    """The largest difference between two trees, relative to its leaf's largest value;
    inf if they are not is_finite at the same indices."""
    largest = 0.0
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        is_finite = np.isfinite(a)
        if a.shape != b.shape or not np.array_equal(is_finite, np.isfinite(b)):
            return np.inf
        scale = max(np.abs(a[is_finite]).max(initial=0), 1e-3)
        largest = max(
            largest, np.abs(a[is_finite] - b[is_finite]).max(initial=0) / scale
        )
    return float(largest)


def same(one: Any, other: Any, tolerance: float, message: str) -> None:
    """Raises AssertionError if two trees differ by more than `tolerance`."""
    difference = gap(one, other)
    must(
        difference <= tolerance,
        f"{message} (off by {difference:.1e} of the largest value)",
    )


def same_bits(one: Any, other: Any, message: str) -> None:
    """Raises AssertionError unless two trees are equal bit for bit."""
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    equal = all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in leaves)
    must(equal, message)


def mesh() -> Any:
    """A mesh (data, fsdp) of all devices, with fsdp=2.

    Raises UserError unless the number of devices is even.
    """
    count = jax.device_count()
    if count < 2 or count % 2:
        raise UserError(
            f"jax has {count} device{'s' * (count > 1)}: python -m clipjax.testing "
            "emulates 8; elsewhere set XLA_FLAGS=--xla_force_host_platform_device_"
            "count=8 before jax starts"
        )
    return sharding.make_mesh({"data": count // 2, "fsdp": 2})


def split_rows(mesh: Any, tree: Any) -> Any:
    """A batch with its rows split mesh all devices of a mesh."""
    rows = sharding.batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.device_put(x, rows) if np.ndim(x) else x, tree)


def split_state(mesh: Any, tree: Any) -> Any:
    """A tree on a mesh, sharded by its paths as in training."""
    return jax.tree.map(jax.device_put, tree, sharding.tree_shardings(mesh, tree))


def shapes(tree: Any) -> Any:
    """A tree's structure, shapes and dtypes, in a form that == compares."""
    return jax.tree.map(lambda x: (np.shape(x), str(np.asarray(x).dtype)), tree)
