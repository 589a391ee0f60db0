"""Host settings: they never override the user, and they work."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import jaxlib
import pytest

from clipjax.engine import host

# Steps with 64 MB of temporaries; prints the page faults of the last ten.
STEPS = """
import resource, sys
from clipjax.engine import host
if sys.argv[1] == "kept":
    assert host.fast_cpu_flags() == (host.jaxlib.__version__ in host.REDUCE_VERSIONS)
    assert host.keep_memory()
import jax, jax.numpy as jnp
@jax.jit
def step(x):
    return (x @ x.T @ x).sum()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
x = jnp.ones((4096, 64))
for _ in range(5):
    step(x).block_until_ready()
before = faults()
for _ in range(10):
    step(x).block_until_ready()
print(faults() - before)
"""


@pytest.fixture
def cpu(monkeypatch):
    monkeypatch.setattr(host, "cpu_only", lambda: True)
    monkeypatch.setattr(jaxlib, "__version__", host.REDUCE_VERSIONS[0])
    monkeypatch.setenv("XLA_FLAGS", "--xla_other=1")


def test_the_flag_joins_those_of_the_user(cpu):
    assert host.fast_cpu_flags()
    assert os.environ["XLA_FLAGS"] == f"--xla_other=1 {host.REDUCE_FLAG}"
    assert not host.fast_cpu_flags()
    assert os.environ["XLA_FLAGS"] == f"--xla_other=1 {host.REDUCE_FLAG}"


def test_the_users_value_stays(cpu, monkeypatch):
    chosen = host.REDUCE_FLAG.replace("REDUCE", "DOT")
    monkeypatch.setenv("XLA_FLAGS", chosen)
    assert not host.fast_cpu_flags()
    assert os.environ["XLA_FLAGS"] == chosen


def test_no_flag_for_an_untried_jaxlib(cpu, monkeypatch):
    monkeypatch.setattr(jaxlib, "__version__", "99.0")
    assert not host.fast_cpu_flags()
    assert os.environ["XLA_FLAGS"] == "--xla_other=1"


def test_nothing_beside_an_accelerator(cpu, monkeypatch):
    monkeypatch.setattr(host, "cpu_only", lambda: False)
    assert not host.fast_cpu_flags()
    assert not host.keep_memory()


def test_the_users_malloc_settings_stay(cpu, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=4")
    assert not host.keep_memory()


def huge_pages():
    """Whether the kernel gives huge pages unasked, of which few are faulted in."""
    setting = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return setting.exists() and "[always]" in setting.read_text()


@pytest.mark.thorough
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux with glibc")
@pytest.mark.skipif(huge_pages(), reason="page faults are rare with huge pages")
def test_memory_is_kept_between_steps():
    def faults(how):
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
        environment.pop("GLIBC_TUNABLES", None)
        command = [sys.executable, "-c", STEPS, how]
        output = subprocess.check_output(command, env=environment, text=True)
        return int(output)

    pages = 10 * 4096 * 4096 * 4 // os.sysconf("SC_PAGE_SIZE")
    assert faults("plain") > pages // 2
    assert faults("kept") < pages // 50


def test_the_flag_is_accepted_by_this_jaxlib():
    if jaxlib.__version__ not in host.REDUCE_VERSIONS:
        pytest.skip("the flag is not set for this jaxlib")
    code = "import jax.numpy as jnp; print(jnp.ones((8, 8)).sum())"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": host.REDUCE_FLAG}
    output = subprocess.check_output(
        [sys.executable, "-c", code], env=environment, text=True
    )
    assert float(output) == 64
