"""What the tests of sources share: a small image, and the promises of every source."""

import io
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from clipjax.data.images import decoding
from clipjax.types import Source


def jpeg(seed=0):
    color = tuple(np.random.default_rng(seed).integers(0, 255, 3).tolist())
    stream = io.BytesIO()
    Image.new("RGB", (12, 8), color).save(stream, "JPEG")
    return stream.getvalue()


def write_tar(path, members):
    """members: (name, bytes) pairs, or TarInfo for a member without content."""
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return path


def check_contract(source):
    """What types.Source promises of every source."""
    assert isinstance(source, Source)
    assert source.caption_counts.dtype == np.int32
    assert source.caption_counts.shape == (len(source),)
    assert source.max_captions == source.caption_counts.max()
    assert isinstance(source.problems, list)
    for index in (0, len(source) - 1):
        example = source[index]
        assert decoding.decode(example.image).mode == "RGB" and example.key
        assert source.key_of(index) == example.key
        assert len(example.captions) == source.caption_counts[index]
        assert example.labels.keys() <= source.class_names.keys()
    copy = pickle.loads(pickle.dumps(source))
    assert copy[0] == source[0] and len(copy) == len(source)
    for index in (len(source), -1):
        with pytest.raises(IndexError):
            source[index]
