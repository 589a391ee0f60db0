"""The index of a shard survives its own file format."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.data.containers import tar_index


def arrays_of(rows):
    columns = list(zip(*rows, strict=True)) or [[]] * 8
    lengths = np.cumsum([len(c.encode()) for c in columns[0]], dtype=np.int64)
    blob = "".join(columns[0]).encode()
    types = [np.int64] * 4 + [np.uint8, np.int32, np.int32]
    return tar_index.ShardIndex(
        np.frombuffer(blob, np.uint8),
        lengths,
        *(np.array(c, t) for c, t in zip(columns[1:], types, strict=True)),
    )


POSITION = st.integers(0, 2**62)
ROW = st.tuples(
    st.text(min_size=1, max_size=20).filter(lambda s: s.isprintable()),
    *(POSITION, POSITION, POSITION, POSITION),
    *(st.integers(0, 2), st.integers(0, 2**31 - 1), st.integers(-2, 2**31 - 1)),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(ROW, max_size=8), st.lists(st.text(), max_size=3), st.text())
def test_an_index_round_trips_through_its_file(tmp_path_factory, rows, problems, stamp):
    stamp = stamp.rstrip("\0")  # NumPy strings cannot end in NUL; a stamp is JSON
    place = tmp_path_factory.mktemp("index") / "i.npz"
    made = arrays_of(rows)
    made = tar_index.ShardIndex(
        *(getattr(made, name) for name in tar_index.ARRAYS), tuple(problems)
    )
    tar_index.save(place, stamp, made)
    read = tar_index.load(place, stamp)
    assert [read.key(i) for i in range(len(read))] == [row[0] for row in rows]
    for name in tar_index.ARRAYS:
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))
        assert getattr(read, name).dtype == getattr(made, name).dtype
    assert read.problems == made.problems
    assert tar_index.load(place, stamp + "x") is None
