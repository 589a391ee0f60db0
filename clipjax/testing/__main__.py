"""`python -m clipjax.testing loss=my_package.my_loss`: prints one line per check."""

from __future__ import annotations

import inspect
import os
import time

import jax

from clipjax import commandline, registry, testing
from clipjax.testing import contract
from clipjax.types import UserError

DEVICES = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
HELP = """\
usage: python -m clipjax.testing FAMILY=COMPONENT [--OPTION=VALUE ...] ...

Checks components against the contract of their family, on 8 emulated devices:

  loss=my_package.my_loss --temperature=0.1     a loss, with an option
  image=my_package.my_tower text=transformer    several, each with the options after it
  data=captions --path=DATA --split=test        a source's split ("train" by default)
  evals=my_package.my_evaluator                 an evaluator

families: {families}
A component is the name of one of clipjax's, or a dotted module with a function `make`.
Exit status 1 if a check fails.
"""


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv or len(argv) == 1:
        print(
            commandline.spell_commands(
                HELP.format(families=", ".join(testing.CONTRACTS))
            )
        )
        return 0 if len(argv) > 1 else 2
    emulate_devices()
    failed = 0
    for family, name, options in components(argv[1:]):
        more = {"split": options.pop("split", "train")} if family == "data" else {}
        values = registry.options_from_text(family, name, options, "--")
        print(f"{family}={name}")
        told: set[str] = set()
        file = inspect.getsourcefile(registry.load(family, name)) or ""
        for check in testing.checks(family, name, values, **more):
            start = time.monotonic()
            message = run(check, file)
            # What breaks a component's every call is told once.
            line = "FAILED likewise;" if message in told else message
            told |= {message} - {""}
            seconds = f"{time.monotonic() - start:5.1f} s"
            print(f"  {line or 'ok'}  {check.name}  {seconds}", flush=True)
            failed += bool(message)
    print(f"{failed} failed" if failed else "all ok")
    return 1 if failed else 0


def emulate_devices() -> None:
    """Makes jax emulate 8 CPU devices; call before jax starts its backend."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}".strip()
    jax.config.update("jax_platforms", "cpu")


def components(args: list[str]) -> list[tuple[str, str, dict[str, str]]]:
    """(family, name, options as text) per component on a command line.

    Raises UserError for an argument of neither form, and for a family without a
    contract.
    """
    chosen: list[tuple[str, str, dict[str, str]]] = []
    for arg in args:
        key, equals, value = arg.partition("=")
        if not equals or not value:
            raise UserError(f"{arg!r}: write FAMILY=COMPONENT or --OPTION=VALUE")
        if key.startswith("-"):
            if not chosen:
                raise UserError(f"{arg!r}: name a component before its options")
            chosen[-1][2][key.lstrip("-")] = value
            continue
        if key not in testing.CONTRACTS:
            hint = registry.suggest(key, testing.CONTRACTS)
            known = ", ".join(testing.CONTRACTS)
            raise UserError(f"{arg!r}: no such family.{hint} Known: {known}")
        chosen.append((key, value, {}))
    return chosen


def run(check: contract.Check, file: str = "") -> str:
    """Why a check fails, in one line; "" if it passes. file: the component's."""
    try:
        check.run()
    except AssertionError as error:
        return f"FAILED: {' '.join(str(error).split())};"
    except UserError as error:
        return f"FAILED: refused: {' '.join(str(error).split())};"
    except Exception as error:  # from the component's code
        return f"FAILED: {registry.describe_error(error, file)};"
    return ""


if __name__ == "__main__":
    commandline.run(main)
