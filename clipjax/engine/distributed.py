"""Several hosts: joined only where the environment says that there are several."""

from __future__ import annotations

import os

import jax

from clipjax.types import UserError

HEARTBEAT_SECONDS = 20  # after which a dead peer ends the run


def initialise() -> None:
    """Joins the other processes, if any; call before anything touches a device.

    Looked for: JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID; SLURM
    or Open MPI with more than one task; a TPU pod slice. On a single host nothing is
    done, since jax.distributed.initialize raises there.
    """
    env = os.environ
    address = env.get("JAX_COORDINATOR_ADDRESS")
    if address:
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
        try:
            jax.distributed.initialize(
                coordinator_address=address,
                num_processes=count,
                process_id=index,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            )
        except RuntimeError as error:
            raise UserError(
                f"cannot join the processes at {address}: {error}"
            ) from error
    elif (
        _many(env.get("SLURM_NTASKS"))
        or _many(env.get("OMPI_COMM_WORLD_SIZE"))
        or len(env.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1
    ):
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_SECONDS)


def _many(count: str | None) -> bool:
    return count is not None and count.isdigit() and int(count) > 1
