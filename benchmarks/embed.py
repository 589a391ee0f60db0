"""Images per second of `clipjax.embed`, beside what decoding and encoding allow.

    python benchmarks/embed.py
    python benchmarks/embed.py --peer_python VENV/bin/python

The model is a CLIP of ViT-B/32's shape with random weights; the pictures are JPEGs of
640 x 480 pixels in one tar file, without captions. Rounds take turns; printed are
medians of

- decode: reading, decoding and resizing alone, in as many threads as embed has
- encode: the compiled image tower alone, on batches that are decoded already
- product: operations per second of the tower's most common matrix product, of which
  encode reaches a share, and which no program exceeds that multiplies as XLA does
- allowed: on a CPU, whose cores do both, 1 / (1 / decode + 1 / encode); on an
  accelerator the smaller of the two
- embed: the whole job, until all is on the disk, without compilation
- open_clip: its transform in a torch DataLoader with a worker per core, and its model
  with the same weights; in a process of its own, without its first batch

The peer's Python needs torch and open_clip; by default this Python, if it has them.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib.util
import io
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

import released_clip

TAR = "val-0.tar"


def write_inputs(folder: pathlib.Path, images: int, tiny: bool) -> None:
    """The model as open_clip reads it, and the pictures."""
    released_clip.write_model(folder / "model", "open_clip", tiny)
    (folder / "data").mkdir()
    with tarfile.open(folder / "data" / TAR, "w") as tar:
        for number, picture in enumerate(released_clip.pictures(images)):
            member = tarfile.TarInfo(f"{number:06}.jpg")
            member.size = len(picture)
            tar.addfile(member, io.BytesIO(picture))


class Ours:
    """Decoding, encoding and embedding by clipjax."""

    def __init__(self, folder: pathlib.Path, batch: int, threads: int):
        import jax

        from clipjax import library, registry

        self._folder, self._batch, self._threads = folder, batch, threads
        self._read = library.read(str(folder / "model"), "best", True)
        self._source = registry.load("data", "webdataset")(
            "val", path=str(folder / "data")
        )
        self._variables = jax.device_put(self._read.variables)
        model = self._read.model
        self._encode = jax.jit(
            lambda v, pixels: model.encode_image(v, pixels)["image_embed"]
        )
        self.accelerator = jax.default_backend() != "cpu"
        self.device = jax.devices()[0].device_kind
        self._calls = 0

    def decode(self) -> float:
        def one(index: int) -> None:
            self._read.preprocess(self._source[index].image)

        begin = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(one, range(len(self._source))))
        return len(self._source) / (time.perf_counter() - begin)

    def encode(self) -> float:
        import numpy as np

        size = self._read.config.data.image_size
        draw = np.random.default_rng(0)
        pixels = draw.integers(0, 256, (self._batch, size, size, 3), np.uint8)
        np.asarray(self._encode(self._variables, pixels))  # compiled here
        count = max(1, len(self._source) // self._batch)
        begin, before = time.perf_counter(), None
        for _ in range(count):
            after = self._encode(self._variables, pixels)
            if before is not None:
                np.asarray(before)
            before = after
        np.asarray(before)
        return count * self._batch / (time.perf_counter() - begin)

    def product(self) -> float:
        """Operations per second of [batch * tokens, width] x [width, 4 * width]."""
        import jax
        import jax.numpy as jnp

        rows, width = self._batch * 50, 768
        left, right = jnp.ones((rows, width)), jnp.ones((width, 4 * width))
        multiply = jax.jit(jnp.matmul)
        multiply(left, right).block_until_ready()
        begin = time.perf_counter()
        for _ in range(10):
            product = multiply(left, right)
        product.block_until_ready()
        return 10 * 2 * rows * width * 4 * width / (time.perf_counter() - begin)

    def operations(self) -> float:
        """Of the tower per image, as XLA counts them in the compiled program."""
        import jax
        import numpy as np

        size = self._read.config.data.image_size
        pixels = jax.ShapeDtypeStruct((self._batch, size, size, 3), np.uint8)
        counts = self._encode.lower(self._variables, pixels).compile().cost_analysis()
        return counts["flops"] / self._batch

    def embed(self) -> tuple[float, float]:
        """Images per second, and the share of the time that was a wait for data."""
        import clipjax

        self._calls += 1
        done = clipjax.embed_data(
            self._folder / "model",
            self._folder / f"emb{self._calls}",
            data="webdataset",
            data_options={"path": str(self._folder / "data")},
            batch_size=self._batch,
            threads=self._threads,
        )
        return done.rate, done.waited


def peer(folder: pathlib.Path, batch: int) -> float:
    """Images per second of open_clip; runs in the peer's Python."""
    import open_clip
    import torch
    from PIL import Image

    with tarfile.open(folder / "data" / TAR) as tar:
        places = [(member.offset_data, member.size) for member in tar]
    model, _, transform = open_clip.create_model_and_transforms(
        f"local-dir:{folder / 'model'}"
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.eval().to(device)

    class Pictures(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(places)

        def __getitem__(self, index: int):
            with open(folder / "data" / TAR, "rb") as file:
                file.seek(places[index][0])
                return transform(Image.open(io.BytesIO(file.read(places[index][1]))))

    workers = len(os.sched_getaffinity(0))
    loader = torch.utils.data.DataLoader(Pictures(), batch, num_workers=workers)
    done, found = 0, []
    begin = time.perf_counter()
    with torch.inference_mode():
        for number, pixels in enumerate(loader):
            embed = model.encode_image(pixels.to(device), normalize=True)
            found.append(embed.float().cpu().numpy())
            if number:
                done += len(pixels)
            else:
                begin = time.perf_counter()
    return done / (time.perf_counter() - begin)


def called_peer(python: str, folder: pathlib.Path, batch: int) -> float:
    words = [python, __file__, "--peer", str(folder), "--batch", str(batch)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"open_clip failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description="see the file's first lines")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--peer_python", default="", help="a Python with open_clip")
    parser.add_argument("--tiny", action="store_true", help="towers of one small block")
    parser.add_argument("--peer", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        print(json.dumps(peer(pathlib.Path(args.peer), args.batch)))
        return
    from clipjax.engine import host

    host.fast_cpu_flags()
    host.keep_memory()
    python = args.peer_python
    if not python and importlib.util.find_spec("open_clip"):
        python = sys.executable
    rates: dict[str, list[float]] = {"decode": [], "encode": [], "embed": []}
    waits, products = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_inputs(folder, args.images, args.tiny)
        ours = Ours(folder, args.batch, args.threads)
        for _ in range(args.rounds):
            rates["decode"].append(ours.decode())
            rates["encode"].append(ours.encode())
            products.append(ours.product())
            rate, waited = ours.embed()
            rates["embed"].append(rate)
            waits.append(waited)
            if python:
                found = called_peer(python, folder, args.batch)
                rates.setdefault("open_clip", []).append(found)
        operations = ours.operations()
    print(
        f"{args.images} images, batches of {args.batch}, {args.threads} threads, "
        f"{args.rounds} rounds on {ours.device}"
    )
    middle = {key: statistics.median(values) for key, values in rates.items()}
    decode, encode = middle["decode"], middle["encode"]
    one_after_the_other = 1 / (1 / decode + 1 / encode)
    allowed = min(decode, encode) if ours.accelerator else one_after_the_other
    for key, value in middle.items():
        runs = ", ".join(f"{one:.1f}" for one in rates[key])
        print(f"{key:10} {value:9.1f} images/s  ({runs})")
    print(f"{'allowed':10} {allowed:9.1f} images/s")
    product = statistics.median(products)
    share = encode * operations / product
    print(f"product: {product / 1e9:.0f} GFLOP/s, of which encode reaches {share:.0%}")
    print(f"embed / allowed: {middle['embed'] / allowed:.3f}")
    print(f"waited for data: {statistics.median(waits):.0%} of the time")
    if "open_clip" in middle:
        print(f"embed / open_clip: {middle['embed'] / middle['open_clip']:.2f}")
    else:
        print("open_clip is not here: no comparison")


if __name__ == "__main__":
    main()
