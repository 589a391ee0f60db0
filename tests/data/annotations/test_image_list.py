"""Captions, names and faults of listed images."""

import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipjax.data.annotations import image_list
from clipjax.data.annotations.caption_entries import Entry
from clipjax.types import BadExample

# With halves of surrogate pairs, which stand for bytes that are no UTF-8.
TEXT = st.text(st.characters(), max_size=9)


ENTRIES = st.dictionaries(
    TEXT, st.tuples(st.lists(TEXT, max_size=3), st.booleans()), min_size=1, max_size=6
)


@given(ENTRIES)
def test_entries_keep_their_captions_and_faults(wanted):
    entries = {
        name: Entry(captions, len(captions) + faulty, "torn" if faulty else "")
        for name, (captions, faulty) in wanted.items()
    }
    source = image_list.ImageList(pathlib.Path("nowhere"), entries, [])
    assert len(source) == len(wanted)
    for i, (name, (captions, faulty)) in enumerate(wanted.items()):
        assert source.key_of(i) == name.encode("utf-8", "backslashreplace").decode()
        assert source.caption_counts[i] == len(captions) + faulty
        if faulty:
            with pytest.raises(BadExample, match="torn"):
                source.captions_of(i)
        else:
            assert source.captions_of(i) == tuple(captions)
    for index in (-1, len(wanted)):
        with pytest.raises(IndexError):
            source.key_of(index)
        with pytest.raises(IndexError):
            source.captions_of(index)
