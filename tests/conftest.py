"""A strict test process: 8 emulated devices, rank promotion raises, flags parsed."""

import contextlib
import os
from importlib.metadata import version

# Tests compile much and compute little: with these an eighth of the CPU time.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_cpu_parallel_codegen_split_count=1"
    # Later versions lack the flag, and no other has its effect.
    + " --xla_cpu_use_fusion_emitters=false"
    * (version("jaxlib") < "0.12"),
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pathlib

import hypothesis
import jax
import jaxtyping
import pytest
from absl import flags

# What is printed has one form, whatever the terminal and the user's settings.
os.environ.update(COLUMNS="80", LINES="25", TERM="xterm")
for _name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(_name, None)
# Before these are imported: the shapes on their signatures are checked at each call.
jaxtyping.install_import_hook(
    ["clipjax.models", "clipjax.losses", "clipjax.engine.gradients"],
    "shape_checks.checked",
)
jax.config.update("jax_numpy_rank_promotion", "raise")
# A busy machine is no fault of what is tested, and neither is an example that an
# earlier change did not meet: the same ones come each time.
hypothesis.settings.register_profile(
    "any_machine",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("any_machine")
# Examples also hold constants of the modules imported so far, which are others with
# every order of the test files; see test_same_examples.py. Not part of its public face,
# so other versions may lack it.
with contextlib.suppress(ImportError):
    from hypothesis.internal.conjecture import providers

    if hasattr(providers, "_local_constants"):
        providers._get_local_constants = lambda: providers._local_constants
flags.FLAGS.mark_as_parsed()  # grain's worker processes read absl flags

SHARED_DATA = pathlib.Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def shared_data():
    """Real data beside the project; tests that need it skip where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real data folder ../shared/data, which is absent")
    return SHARED_DATA


@pytest.fixture(scope="session", autouse=True)
def one_cache(tmp_path_factory):
    """All test processes share one cache, which is not the user's."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    os.environ["CLIPJAX_CACHE"] = str(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture(scope="module")
def on_one_device():
    """Runs take one device of the eight."""
    from run_tools import one_device

    with one_device():
        yield


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Opens the checkpoints of one folder as often as asked, and closes them."""
    from checkpoint_helpers import Opener

    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # only slows tests
    opener = Opener(tmp_path / "run")
    yield opener
    opener.close()
