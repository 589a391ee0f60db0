"""What the checks of all families share: components, numbers, devices."""

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

# Checks compile much and compute little: unoptimised, a third of the time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Check(NamedTuple):
    """name: what a component must do; run: raises if it does not."""

    name: str
    run: Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Component:
    """A factory under test and the options to call it with."""

    family: str
    factory: Callable[..., Any]
    options: Mapping[str, Any]

    def make(self, *args: Any, **more: Any) -> Any:
        return self.factory(*args, **{**self.options, **more})

    def has(self, option: str) -> bool:
        return option in registry.options(self.factory)

    def constant(self, name: str) -> Any:
        """What the component's module declares under a name, None without."""
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
    family: str, given: str | Callable[..., Any], options: Mapping[str, Any]
) -> Component:
    """The component of a name, a dotted module or a factory.

    Raises UserError for a component that is not there, an option that it lacks, or an
    option's value of a wrong type.
    """
    factory = registry.load(family, given) if isinstance(given, str) else given
    known = registry.options(factory)
    typed = {}
    for name, value in options.items():
        if name not in known:
            raise UserError(
                f"{family}: no option {name!r}.{registry.suggest(name, known)} "
                f"Known: {', '.join(known)}"
            )
        typed[name] = registry.typed(value, known[name].annotation, name)
    return Component(family, factory, typed)


def must(condition: Any, message: str) -> None:
    """Raises AssertionError with the message unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def run(checks: Iterable[Check]) -> None:
    """Runs checks in turn; the first that fails raises."""
    for check in checks:
        check.run()


def pickled(subject: Any, what: str) -> Any:
    """A copy as another process gets it; what: "the source", for the message."""
    try:
        return pickle.loads(pickle.dumps(subject))
    except Exception as error:
        raise AssertionError(f"{what} cannot be pickled: {error}") from error


def options_are_documented(subject: Component) -> None:
    """Every option has a type, a default of it, and a line in the docstring."""
    try:
        known = registry.options(subject.factory)
    except TypeError as error:
        raise AssertionError(str(error)) from error
    for name, option in known.items():
        try:
            registry.typed(option.default, option.annotation, name)
        except UserError as error:
            raise AssertionError(f"the default of an option: {error}") from error
    lines = help_pages.meanings(subject.factory)
    missing = [name for name in known if not lines.get(name)]
    must(
        not missing,
        f"options without a line in the docstring: {', '.join(missing)}; write one "
        "under Args, such as '  NAME: what it does'",
    )
    place = inspect.getdoc(subject.factory)
    must(place, "the factory has no docstring: say what it makes")


def finite(tree: Any, what: str) -> None:
    """Raises AssertionError, naming the leaf, if a number is not finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not np.isfinite(np.asarray(leaf, np.float64)).all():
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            raise AssertionError(f"{what}: {where or 'the value'} is not finite")


def gap(one: Any, other: Any) -> float:
    """The largest difference between two trees, of the largest value of its leaf; inf
    if they are not finite at the same places."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        here = np.isfinite(a)
        if a.shape != b.shape or not np.array_equal(here, np.isfinite(b)):
            return np.inf
        scale = max(np.abs(a[here]).max(initial=0), 1e-3)
        worst = max(worst, np.abs(a[here] - b[here]).max(initial=0) / scale)
    return float(worst)


def same(one: Any, other: Any, tolerance: float, message: str) -> None:
    """Raises AssertionError if two trees differ by more than `tolerance`."""
    found = gap(one, other)
    must(found <= tolerance, f"{message} (off by {found:.1e} of the largest value)")


def same_bits(one: Any, other: Any, message: str) -> None:
    """Raises AssertionError unless two trees are equal to the last bit."""
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    equal = all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in leaves)
    must(equal, message)


def mesh() -> Any:
    """All devices as (data, fsdp), two along fsdp.

    Raises UserError for fewer than two devices, with which nothing would be checked.
    """
    count = jax.device_count()
    if count < 2 or count % 2:
        raise UserError(
            f"jax has {count} device{'s' * (count > 1)}: python -m clipjax.testing "
            "emulates 8; elsewhere set XLA_FLAGS=--xla_force_host_platform_device_"
            "count=8 before jax starts"
        )
    return sharding.make_mesh({"data": count // 2, "fsdp": 2})


def split_rows(over: Any, tree: Any) -> Any:
    """A batch over all devices of a mesh, each with its rows."""
    rows = sharding.batch_sharding(over)
    return jax.tree.map(lambda x: jax.device_put(x, rows) if np.ndim(x) else x, tree)


def split_state(over: Any, tree: Any) -> Any:
    """A tree over the devices of a mesh, as training places it by its paths."""
    return jax.tree.map(jax.device_put, tree, sharding.tree_shardings(over, tree))


def shapes(tree: Any) -> Any:
    """Structure, shapes and types of a tree, comparable."""
    return jax.tree.map(lambda x: (np.shape(x), str(np.asarray(x).dtype)), tree)
