"""Where a process finds its place among others."""

from __future__ import annotations

import http.server
import json
import threading

import pytest
from jax._src.clusters import cloud_tpu_cluster

from clipjax import multihost
from clipjax.engine import distributed
from clipjax.types import UserError

NAMES = (
    *("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"),
    *("SLURM_NTASKS", "SLURM_JOB_ID", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES"),
    *("TPU_SKIP_MDS_QUERY", "JAX_COORDINATOR_PORT", "KUBERNETES_SERVICE_HOST"),
)


@pytest.fixture
def joined(monkeypatch):
    """Calls of initialise, and what they would have joined."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    calls = []
    monkeypatch.setattr(distributed.relay, "start", lambda address: 7)
    monkeypatch.setattr(distributed.atexit, "register", lambda function: None)
    monkeypatch.setattr(distributed, "peers", Joined(calls))
    monkeypatch.setattr(
        distributed.jax.distributed,
        "initialize",
        lambda **given: calls.append(given["coordinator_address"]),
    )
    monkeypatch.setattr(distributed.jax.config, "update", lambda *pair: None)
    return calls


class Joined:
    def __init__(self, calls):
        self.calls = calls
        self.finish = None

    def group(self):
        return None

    def join(self, *place):
        self.calls.append(place)
        return self


@pytest.fixture
def metadata(monkeypatch):
    """A metadata server of a TPU VM, whose attributes are the dict."""
    values: dict[str, str] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.rpartition("/")[2]
            asked = self.headers["Metadata-Flavor"] == "Google"
            found = asked and "/instance/attributes/" in self.path and name in values
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(values.get(name, "").encode())

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
        monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
        yield values
        server.shutdown()


def test_a_plain_workstation_is_alone(joined):
    distributed.initialise(300)
    assert joined == []


def test_the_environment_of_jax(joined, monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "first:1234")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "4")
    monkeypatch.setenv("JAX_PROCESS_ID", "2")
    distributed.initialise(300)
    # Behind a relay, as every process but the first.
    assert joined == [(("first", 1235), 2, 4, 300), "127.0.0.1:7"]
    joined.clear()
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    distributed.initialise(300)
    assert joined == [(("first", 1235), 0, 4, 300), "first:1234"]


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"JAX_PROCESS_ID": "4"}, "JAX_PROCESS_ID=4: must be below"),
        ({"JAX_PROCESS_ID": "x"}, "set JAX_NUM_PROCESSES and JAX_PROCESS_ID"),
        ({"JAX_COORDINATOR_ADDRESS": "first"}, "write it as HOST:PORT"),
    ],
)
def test_an_incomplete_place_is_refused(joined, monkeypatch, changed, said):
    place = {"JAX_COORDINATOR_ADDRESS": "first:1234", "JAX_NUM_PROCESSES": "4"}
    for name, value in {**place, "JAX_PROCESS_ID": "0", **changed}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said):
        distributed.initialise(300)


def test_a_tpu_slice_known_to_its_metadata_server(joined, metadata):
    metadata["agent-worker-number"] = "3"
    # The form that lists name:id:address of each worker.
    addresses = ("127.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4")
    metadata["worker-network-endpoints"] = ",".join(f"w:1:{a}" for a in addresses)
    metadata["tpu-env"] = "ACCELERATOR_TYPE: 'v4-32'\nWORKER_ID: '3'\n"
    distributed.initialise(300)
    port = int(cloud_tpu_cluster.coordinator_port)
    assert joined == [(("127.0.0.1", port + 1), 3, 4, 300), "127.0.0.1:7"]


def test_a_single_tpu_host_is_alone(joined, metadata):
    metadata["agent-worker-number"] = "0"
    metadata["worker-network-endpoints"] = "127.0.0.1"
    metadata["tpu-env"] = "WORKER_ID: '0'\n"
    distributed.initialise(300)
    assert joined == []


def test_a_metadata_server_that_tells_nonsense_is_no_reason_to_train_alone(
    joined, metadata
):
    metadata["agent-worker-number"] = "0"
    metadata["worker-network-endpoints"] = "a:b"
    metadata["tpu-env"] = ""
    with pytest.raises(UserError, match="a TPU VM .* cannot find them"):
        distributed.initialise(300)


def test_facts_that_differ_are_named_with_their_processes(monkeypatch):
    told = [{"lr": 0.1, "seed": 0}, {"lr": 0.2, "seed": 0}, {"lr": 0.1, "more": 1}]
    monkeypatch.setattr(multihost, "gather", lambda text: [json.dumps(t) for t in told])
    with pytest.raises(UserError) as error:
        multihost.same("their settings", told[0])
    text = str(error.value)
    assert "lr is 0.1 in process 0, 2 and 0.2 in process 1;" in text
    assert "seed is 0 in process 0, 1 and (absent) in process 2" in text
    assert "more is (absent) in process 0, 1 and 1 in process 2" in text


def test_facts_that_agree_are_well(monkeypatch):
    monkeypatch.setattr(multihost, "gather", lambda text: [text, text])
    multihost.same("their settings", {"lr": 0.1})


def test_processes_joined_by_other_means_are_told(monkeypatch):
    monkeypatch.setattr(multihost.jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="clipjax.engine.distributed.initialise"):
        multihost.gather("")
