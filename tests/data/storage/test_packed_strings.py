"""Many strings in one array, against a list of them."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipjax.data.storage.packed_strings import Strings

ANY = st.text(st.characters(), max_size=8)  # surrogates and NUL included


@given(st.lists(ANY, max_size=20))
def test_they_are_what_a_list_has(texts):
    made = pickle.loads(pickle.dumps(Strings(iter(texts))))
    assert list(made) == texts and len(made) == len(texts)
    assert [made[i] for i in range(len(texts))] == texts
    for index in (-1, len(texts)):
        with pytest.raises(IndexError):
            made[index]


def test_they_take_little_room():
    texts = [f"{i:08d}.jpg" for i in range(10_000)]
    assert len(pickle.dumps(Strings(texts))) < 21 * len(texts)
