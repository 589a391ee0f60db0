"""What is said of a save's failures beside the one that is raised."""

import asyncio
import gc

import pytest
import tensorstore

from clipjax.engine.checkpoint import orbax_log


def of_tensorstore():
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": "/dev/null/x"}}
    with pytest.raises(ValueError) as raised:
        tensorstore.open(spec, open=True).result()
    return ValueError(str(raised.value))  # without traceback, as in its own threads


def drop_failed_future(error):
    async def fail():
        asyncio.get_running_loop().create_future().set_exception(error)
        gc.collect()

    asyncio.run(fail())


@pytest.mark.thorough
def test_later_failures_of_tensorstore_are_not_logged(caplog):
    orbax_log.quieten_orbax()
    gc.collect()  # what earlier tests of this process left
    caplog.clear()
    drop_failed_future(of_tensorstore())
    assert not caplog.records
    drop_failed_future(ValueError("of the program"))
    (record,) = caplog.records
    assert "never retrieved" in record.getMessage()
