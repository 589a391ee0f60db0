"""Encoding: fixed shapes, broken images, threads, several devices and processes."""

import os
import pathlib
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from encoder_tools import (
    LENGTH,
    WIDTH,
    Letters,
    Pooling,
    Sums,
    expected_embed,
    make_encoder,
    make_pictures,
    make_variables,
    png_bytes,
)
from PIL import Image
from port_tools import free_port

from clipjax.encoder import Encoder
from clipjax.engine.sharding import make_mesh, replicated
from clipjax.types import BadExample, Example, UserError


@pytest.mark.parametrize("count", [1, 3, 4, 5, 12])
@pytest.mark.parametrize("threads", [1, 3])
def test_images_are_encoded_in_order(count, threads):
    pictures = make_pictures(count)
    found = make_encoder(batch_size=4, threads=threads).images(
        make_variables(), pictures
    )
    assert found.embed.dtype == np.float32
    np.testing.assert_allclose(
        found.embed, expected_embed(pictures), rtol=1e-4, atol=1e-5
    )
    assert found.valid.all() and not found.broken


def test_arrays_bytes_pictures_examples_and_iterators_are_the_same():
    pictures = make_pictures(3)
    encoder, variables = make_encoder(batch_size=2), make_variables()
    whole = encoder.images(variables, pictures).embed
    for form in (
        [png_bytes(picture) for picture in pictures],
        [Image.fromarray(picture) for picture in pictures],
        [Example(image=picture) for picture in pictures],
        iter(pictures),
    ):
        np.testing.assert_array_equal(encoder.images(variables, form).embed, whole)


def test_indices_choose_and_order():
    pictures = make_pictures(6)
    encoder, variables = make_encoder(batch_size=4), make_variables()
    whole = encoder.images(variables, pictures).embed
    some = encoder.images(variables, pictures, [5, 0, 5])
    np.testing.assert_allclose(some.embed, whole[[5, 0, 5]], rtol=1e-6)


def test_broken_images_are_masked_named_and_leave_the_others_alone():
    pictures = make_pictures(5)
    examples = [Example(picture, key=f"k{i}") for i, picture in enumerate(pictures)]
    examples[1] = Example(png_bytes(pictures[1])[:40], key="cut")
    examples[4] = Example(b"", key="")

    def keep(example):
        if example.key == "k2":
            raise BadExample("not wanted")
        return {"key": example.key}

    found = make_encoder(batch_size=2).images(make_variables(), examples, keep=keep)
    assert found.valid.tolist() == [True, False, False, True, False]
    assert found.kept == [{"key": "k0"}, None, None, {"key": "k3"}, None]
    assert [key for key, _ in found.broken] == ["cut", "k2", "example 4"]
    assert found.broken[1][1] == "not wanted"
    assert "0 bytes" in found.broken[2][1]
    np.testing.assert_allclose(
        found.embed[[0, 3]],
        expected_embed([pictures[0], pictures[3]]),
        rtol=1e-4,
        atol=1e-5,
    )
    assert not found.embed[~found.valid].any()


def test_a_source_that_raises_is_masked_and_other_errors_pass_through():
    class Faulty:
        def __init__(self, error):
            self.error = error

        def __len__(self):
            return 3

        def __getitem__(self, index):
            if index == 1:
                raise self.error
            return Example(make_pictures(3)[index])

    before = set(threading.enumerate())
    encoder = make_encoder(batch_size=2)
    found = encoder.images(make_variables(), Faulty(BadExample("torn")))
    assert found.valid.tolist() == [True, False, True]
    assert found.broken == [("example 1", "torn")]
    with pytest.raises(OSError, match="disk"):
        encoder.images(make_variables(), Faulty(OSError("disk")))
    assert set(threading.enumerate()) <= before


def test_a_preprocess_that_changes_its_shape_is_an_error():
    encoder = Encoder(Sums(), Letters(), lambda image: image, batch_size=2)
    with pytest.raises(ValueError, match=r"uint8 \[4, 4, 3\] for example 0"):
        encoder.images(make_variables(), make_pictures(1))


def test_texts():
    texts = ["ab", "", "abcdefghij", "ba", "b"]
    embed = make_encoder(batch_size=2).texts(make_variables(), texts)
    table = make_variables()["params"]["text"]
    expected = np.stack([table[[1, *text.encode()][:LENGTH]].mean(0) for text in texts])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert embed.dtype == np.float32
    np.testing.assert_allclose(embed, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(BadExample):
        make_encoder(batch_size=2).texts(make_variables(), ["a", None])


def test_texts_of_the_same_tokens():
    long = "x" * LENGTH
    texts = ["ab", "ba", f"{long}a", "ab", f"{long}b", "a", ""]
    found = make_encoder(batch_size=2).alike(texts)
    assert found.tolist() == [0, 1, 2, 0, 2, 5, 6]
    assert make_encoder(batch_size=2).alike([]).shape == (0,)
    with pytest.raises(BadExample):
        make_encoder(batch_size=2).alike(["a", None])


def test_nothing_gives_empty_arrays_of_the_right_width():
    encoder = make_encoder(batch_size=2)
    found = encoder.images(make_variables(), [])
    assert found.embed.shape == (0, WIDTH) and found.valid.shape == (0,)
    assert encoder.texts(make_variables(), []).shape == (0, WIDTH)


def test_each_side_is_traced_once_whatever_the_calls():
    model = Sums()
    encoder = make_encoder(model, batch_size=4)
    variables = make_variables()
    for count in (1, 4, 9):
        encoder.images(variables, make_pictures(count))
        encoder.texts(jax.tree.map(lambda x: x + 1, variables), ["a"] * count)
    assert sorted(model.traces) == [("image", (4, 4, 4, 3)), ("text", (4, LENGTH))]


def test_progress_ends_at_the_total():
    encoder, variables = make_encoder(batch_size=4), make_variables()
    seen = []
    encoder.images(variables, make_pictures(9), progress=lambda *p: seen.append(p))
    encoder.texts(variables, ["a"] * 5, progress=lambda *p: seen.append(p))
    assert seen == [(4, 9), (8, 9), (9, 9), (4, 5), (5, 5)]


def test_pooled_features_are_compiled_if_asked_for():
    pictures, texts = make_pictures(6), ["ab", "b", ""]
    pictures[2] = b"broken"
    model = Pooling()
    encoder = make_encoder(model, batch_size=4)
    variables = make_variables()
    plain = encoder.images(variables, pictures)
    assert plain.pooled is None and len(model.traces) == 1
    found = encoder.images(variables, pictures, pooled=True)
    np.testing.assert_allclose(found.embed, plain.embed, rtol=1e-6)
    assert not found.pooled[2].any() and found.valid.sum() == 5
    # The model's projection, by hand, of what it pools.
    rest = [0, 1, 3, 4, 5]
    features = found.pooled[rest] @ variables["params"]["image"]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(features, found.embed[rest], rtol=1e-4, atol=1e-6)
    embed, pooled = encoder.pooled_texts(variables, texts)
    assert pooled.tolist() == [[3.0], [2.0], [1.0]]  # tokens, the first one included
    np.testing.assert_allclose(embed, encoder.texts(variables, texts), rtol=1e-6)
    assert len(model.traces) == 4
    nothing = encoder.images(variables, [], pooled=True).pooled
    assert nothing.shape == (0, 48)
    with pytest.raises(UserError, match="no pooled features of its image side"):
        make_encoder(batch_size=4).images(variables, pictures, pooled=True)


@pytest.mark.parametrize("layout", [(8, 1), (2, 4)])
def test_eight_devices_give_what_one_gives(layout):
    pictures, texts = make_pictures(19), [chr(97 + i) * 3 for i in range(19)]
    variables, single = make_variables(), make_encoder(batch_size=8)
    mesh = make_mesh({"data": layout[0], "fsdp": layout[1]})
    several = make_encoder(batch_size=9, mesh=mesh)
    assert several.batch_size == 16
    placed = jax.device_put(variables, replicated(mesh))
    examples = [*pictures, b"broken"]
    one, many = single.images(variables, examples), several.images(placed, examples)
    np.testing.assert_allclose(many.embed, one.embed, rtol=1e-5, atol=1e-6)
    assert many.broken == one.broken and many.valid.tolist() == one.valid.tolist()
    np.testing.assert_allclose(
        several.texts(placed, texts), single.texts(variables, texts), rtol=1e-5
    )


def test_sharded_variables_are_taken_as_they_are():
    mesh = make_mesh({"data": 2, "fsdp": 4})
    spec = jax.sharding.PartitionSpec("fsdp")
    placed = jax.device_put(make_variables(), jax.sharding.NamedSharding(mesh, spec))
    found = make_encoder(batch_size=8, mesh=mesh).images(placed, make_pictures(3))
    np.testing.assert_allclose(
        found.embed, expected_embed(make_pictures(3)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("option", ["batch_size", "threads"])
def test_options_out_of_range(option):
    with pytest.raises(UserError, match=f"{option}=0"):
        make_encoder(**{option: 0})


PROCESS = """
import sys
import jax, numpy as np
from run_tools import join
join(*sys.argv[1:])
import encoder_tools as own
from clipjax.types import BadExample, Example
from clipjax.engine.sharding import make_mesh, replicated
read = []
class Source:
    def __len__(self):
        return 11
    def __getitem__(self, index):
        read.append(index)
        if index in (2, 9):
            raise BadExample(f"torn {index}")
        return Example(own.make_pictures(11)[index], key=f"k{index}")
mesh = make_mesh({"data": 2, "fsdp": 2})
variables = jax.tree.map(
    lambda x: jax.make_array_from_callback(x.shape, replicated(mesh), lambda i: x[i]),
    own.make_variables(),
)
encoder = own.make_encoder(batch_size=4, mesh=mesh)
found = encoder.images(variables, Source(), keep=lambda example: example.key)
assert found.broken == [("example 2", "torn 2"), ("example 9", "torn 9")], found
good = [i for i in range(11) if i not in (2, 9)]
assert np.flatnonzero(found.valid).tolist() == good
assert [found.kept[i] for i in good] == [f"k{i}" for i in good]
expected = own.expected_embed([own.make_pictures(11)[i] for i in good])
np.testing.assert_allclose(found.embed[good], expected, rtol=1e-4, atol=1e-5)
texts = [chr(97 + i) for i in range(11)]
alone = own.make_encoder(batch_size=4).texts(own.make_variables(), texts)
np.testing.assert_allclose(encoder.texts(variables, texts), alone, rtol=1e-5)
print("read", sorted(read))
"""


@pytest.mark.thorough
def test_two_processes_read_their_own_rows_and_return_the_whole():
    port = free_port()
    here = pathlib.Path(__file__).parent
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(port), str(i)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        results = [process.communicate(timeout=250) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, results, strict=True):
        assert process.returncode == 0, errors[-2000:]
    assert "read [0, 1, 4, 5, 8, 9]" in results[0][0]
    assert "read [2, 3, 6, 7, 10]" in results[1][0]


def test_an_image_that_hangs_is_an_error_in_time():
    free = threading.Event()

    class Stuck(list):
        def __getitem__(self, index):
            if index == 5:
                free.wait(200)
            return super().__getitem__(index)

        def key_of(self, index):
            return f"shard/{index}"

    pictures = Stuck(np.zeros((8, 4, 4, 3), np.uint8))
    begin = time.monotonic()
    try:
        # Longer than a busy machine takes for the images before.
        with pytest.raises(UserError, match=r"shard/5 has not been read for 2 s"):
            make_encoder(timeout=2.0, batch_size=4).images(make_variables(), pictures)
        assert time.monotonic() - begin < 100
    finally:
        free.set()
