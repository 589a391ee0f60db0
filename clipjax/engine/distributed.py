"""Several processes: joined only if the environment says that there are several."""

from __future__ import annotations

import atexit
import hashlib
import os
import pathlib
import re
from importlib import metadata
from typing import NamedTuple

import jax
from jax._src.clusters import ClusterEnv, cloud_tpu_cluster

import clipjax
from clipjax import config_check, peers
from clipjax.engine import relay
from clipjax.multihost import same
from clipjax.types import Config, UserError

# Seconds that switch jax's own timeouts off, which end a process by a C++ abort;
# clipjax.peers reports a lost process in one line.
_NEVER = 10**7


class Place(NamedTuple):
    """A process's place in its group; coordinator: process 0's HOST:PORT."""

    coordinator: str
    count: int
    index: int
    devices: tuple[int, ...] | None = None


def initialise(timeout: float) -> None:
    """Joins the other processes, if any; call before anything touches a device.

    It looks for JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID, then
    for what jax detects: SLURM, Open MPI, Kubernetes jobs, TPU slices (by their
    environment or metadata server). The processes connect at the port above the
    coordinator's.

    timeout: seconds (mesh.timeout) for a process to join, and later to make progress;
      0: no limit.

    Raises UserError if a process does not join, or these variables are incomplete.
    """
    if peers.group() is not None:
        return
    place = _from_environment() or _detected(timeout)
    if place is None or place.count == 1:
        return
    host, _, port = place.coordinator.rpartition(":")
    host = host.strip("[]")
    group = peers.join((host, int(port) + 1), place.index, place.count, timeout)
    address = place.coordinator
    if place.index:
        address = f"127.0.0.1:{relay.start((host, int(port)))}"
    # The steps themselves spread a request to stop (preempt.py).
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator_address=address,
            num_processes=place.count,
            process_id=place.index,
            local_device_ids=place.devices,
            initialization_timeout=_NEVER,
            heartbeat_timeout_seconds=_NEVER,
            shutdown_timeout_seconds=60,
        )
    except RuntimeError as error:
        raise UserError(
            f"cannot join the processes at {place.coordinator}: {error}"
        ) from error
    # Registered after jax's handler, so it runs before jax's barrier at exit.
    atexit.register(group.finish)


def refuse_several(what: str) -> None:
    """Raises UserError, naming `what`, if the environment says that this process is
    one of several, as `initialise` looks for it.
    """
    place = _from_environment() or _detected(60.0)
    if place is not None and place.count > 1:
        raise UserError(
            f"{what} runs in one process, and this one is started as one of "
            f"{place.count}: start it once, outside of their launcher"
        )


def _from_environment() -> Place | None:
    """The place that JAX_COORDINATOR_ADDRESS and its two companions set."""
    env = os.environ
    address = env.get("JAX_COORDINATOR_ADDRESS")
    if not address:
        return None
    try:
        count, index = int(env["JAX_NUM_PROCESSES"]), int(env["JAX_PROCESS_ID"])
    except (KeyError, ValueError) as error:
        raise UserError(
            "JAX_COORDINATOR_ADDRESS is set: set JAX_NUM_PROCESSES and "
            f"JAX_PROCESS_ID to integers too ({error})"
        ) from error
    if not 0 <= index < count:
        raise UserError(
            f"JAX_PROCESS_ID={index}: must be below JAX_NUM_PROCESSES={count}"
        )
    if not address.rpartition(":")[2].isdigit():
        raise UserError(f"JAX_COORDINATOR_ADDRESS={address}: write it as HOST:PORT")
    return Place(address, count, index)


def _detected(timeout: float) -> Place | None:
    """The place that jax's cluster detection finds; None on a workstation."""
    try:
        address, count, index, devices = (
            ClusterEnv.auto_detect_unset_distributed_params(
                None, None, None, None, None, int(timeout) or _NEVER
            )
        )
    except Exception as error:  # each kind of cluster raises another type
        kinds = [
            f"{name}={os.environ[name]}"
            for name in _CLUSTER_VARIABLES
            if _is_several(name)
        ]
        if cloud_tpu_cluster.running_in_cloud_tpu_vm:
            kinds.append("a TPU VM (TPU_SKIP_MDS_QUERY=1 if it is alone)")
        if kinds:
            raise UserError(
                f"{kinds[0]}: there may be several processes, but jax cannot find them "
                f"({type(error).__name__}: {error}): set JAX_COORDINATOR_ADDRESS, "
                "JAX_NUM_PROCESSES and JAX_PROCESS_ID"
            ) from error
        return None
    if address is None or count is None or index is None:
        return None
    return Place(address, count, index, None if devices is None else tuple(devices))


_CLUSTER_VARIABLES = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES")


def _is_several(name: str) -> bool:
    """Whether a variable of the environment says that there are several processes."""
    value = os.environ.get(name, "")
    return int(value) > 1 if value.isdigit() else "," in value


# Keys that may differ between processes: paths, and how data are read.
_LOCAL = (
    r"data\.(workers|threads|timeout)",
    r"log\..*",
    r"(init_from|init_image_from|init_text_from)",
    r"(data|evals)\..*\.(path|data_dir|vocab|table|\w+_file|images)",
)


def compare(config: Config) -> None:
    """Raises UserError on every process if a setting that affects the result differs.

    It compares the config (except paths, workers, threads and logging), the versions of
    jax and jaxlib, clipjax's code and XLA's flags.
    """
    if peers.group() is None:
        return
    facts = {
        f"config.{key}": value
        for key, value in config_check.flat(config).items()
        if not any(re.fullmatch(pattern, key) for pattern in _LOCAL)
    }
    for name in ("jax", "jaxlib"):
        facts[name] = metadata.version(name)
    facts["clipjax"] = _code()
    facts["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "")
    same("their settings", facts)


def _code() -> str:
    """A digest of clipjax's files."""
    digest = hashlib.sha256()
    package = pathlib.Path(clipjax.__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
