"""Compares the training input's speed with PyTorch's loader and with a bare loop.

    python benchmarks/input_pipeline.py --path data/flickr8k   # images and captions
    python benchmarks/input_pipeline.py --path data/flickr8k --train

Each contender decodes images and takes random crops of `--size` pixels, from loose
files and from tar shards with the same images (both written to a temporary folder),
with no worker and with two:

- ours: `pipeline.train_batches` with each decoder of `augment=crop`
- open_clip: a PyTorch DataLoader over a plain dataset, with open_clip's training
  transform and the same crop sizes; it also normalises to float32, which ours leaves to
  the device
- webdataset, for shards: the same transform in a WebLoader
- bare: a loop over images in memory that calls the same crop, which is the limit; two
  loops at once if there are two workers, since a core is slower while others are busy
- decode: the same loop without the crop

Contenders run in separate processes and take turns, so that a slow moment affects all.
Images/s per core are images per CPU second of all the contender's processes. The table
has medians over the rounds, of rates and of ratios.

`--train` trains a small model instead. It compares a step's time, input included, with
the CPU time of the step alone plus the bare loop, shared by all cores: in wall time,
which is meaningful on an idle machine only, and in CPU time.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.util
import io
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Generator

import psutil

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "vit_b16.py"
SHARDS = 4
COPIES = 10  # per image
Images = Generator[int, None, None]  # the number of images per item
# Number of workers -> batches dropped before a turn, more than are prefetched.
DRAIN = {0: 4, 2: 16}
ENDLESS = 10**7


def write(args: argparse.Namespace, folder: pathlib.Path) -> int:
    """Writes the images as files with a table, and as shards; returns their number.

    Each image is written COPIES times, since short epochs are shuffled often.
    """
    from clipjax.data.sources import captions

    source = captions.make("all", path=args.path)
    images = folder / "files" / "images"
    images.mkdir(parents=True)
    (folder / "tar").mkdir()
    with contextlib.ExitStack() as stack:
        tars = [
            stack.enter_context(tarfile.open(folder / "tar" / f"{i:05}.tar", "w"))
            for i in range(SHARDS)
        ]
        table = stack.enter_context(open(folder / "files" / "captions.csv", "w"))
        rows = csv.writer(table)
        rows.writerow(["image", "caption"])
        count = min(len(source), args.images)
        for i in range(count):
            data, text = source[i].image, source[i].captions[0]
            (folder / f"{i:06}.jpg").write_bytes(data)
            for copy in range(i, i + COPIES * count, count):
                os.link(folder / f"{i:06}.jpg", images / f"{copy:06}.jpg")
                rows.writerow([f"{copy:06}.jpg", text])
                for ending, body in (("jpg", data), ("txt", text.encode())):
                    info = tarfile.TarInfo(f"{copy:06}.{ending}")
                    info.size = len(body)
                    tars[copy % SHARDS].addfile(info, io.BytesIO(body))
    return count


def loose(args: argparse.Namespace) -> list[pathlib.Path]:
    return sorted((args.folder / "files" / "images").iterdir())


# Contenders: each returns an iterator that makes images and yields their number


def loop(args: argparse.Namespace, decoder: str, crop: bool) -> Images:
    """The bare loop, over images in memory."""
    import numpy as np

    from clipjax.data.images import augment, decoding, opencv

    decode = opencv.decode if decoder == "opencv" else decoding.decode
    transform = augment.crop(args.size, scale=tuple(args.scale), decoder=decoder)
    data = [path.read_bytes() for path in sorted(args.folder.glob("*.jpg"))]
    rng = np.random.default_rng(0)
    for number in itertools.count():
        image = data[number % len(data)]
        transform(image, rng) if crop else decode(image)
        yield 1


def ours(args: argparse.Namespace, decoder: str) -> Images:
    from clipjax.data.batching import pipeline
    from clipjax.data.images import augment
    from clipjax.data.sources import captions, webdataset
    from clipjax.engine import host

    host.keep_memory()  # as clipjax.train does
    if args.data == "files":
        source = captions.make("all", path=str(args.folder / "files"))
    else:
        folder = str(args.folder / "tar")
        source = webdataset.make("train", path=folder, shards="*.tar")
    batches = pipeline.train_batches(
        source,
        None,
        augment.crop(args.size, scale=tuple(args.scale), decoder=decoder),
        seed=0,
        global_batch=args.batch,
        start_step=0,
        workers=args.workers,
    )
    try:
        for batch in batches:
            yield len(batch["image"])
    finally:
        batches.close()


def open_clip_transform(args: argparse.Namespace):
    import torch

    torch.set_num_threads(1)
    # A CUDA build of torchvision beside a CPU build of torch lacks the operators that
    # its import describes; the transforms need none of them.
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", schema)
    from open_clip.transform import AugmentationCfg, image_transform

    crops = AugmentationCfg(scale=tuple(args.scale))
    return image_transform(args.size, is_train=True, aug_cfg=crops)


class Plain:
    """A dataset as users write it for PyTorch; each process opens its own files."""

    def __init__(self, args: argparse.Namespace, transform: Callable):
        self.transform = transform
        self.places = [(str(path), 0, path.stat().st_size) for path in loose(args)]
        self.open: dict[str, int] = {}
        if args.data == "tar":
            self.places = []
            for path in sorted((args.folder / "tar").iterdir()):
                with tarfile.open(path) as tar:
                    self.places += [
                        (str(path), one.offset_data, one.size)
                        for one in tar
                        if one.name.endswith(".jpg")
                    ]
        self.shards = args.data == "tar"

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int):
        from PIL import Image

        path, start, size = self.places[index % len(self.places)]
        if not self.shards:
            return self.transform(Image.open(path))
        if path not in self.open:
            self.open[path] = os.open(path, os.O_RDONLY)
        data = os.pread(self.open[path], size, start)
        return self.transform(Image.open(io.BytesIO(data)))


def open_clip(args: argparse.Namespace) -> Images:
    from torch.utils.data import DataLoader, RandomSampler

    dataset = Plain(args, open_clip_transform(args))
    sampler = RandomSampler(dataset, replacement=True, num_samples=ENDLESS // 10)
    loader = DataLoader(
        dataset, args.batch, sampler=sampler, num_workers=args.workers, drop_last=True
    )
    for batch in loader:
        yield len(batch)


def webdataset(args: argparse.Namespace) -> Images:
    import webdataset as wds

    transform = open_clip_transform(args)
    dataset = (
        wds.WebDataset(
            [str(path) for path in sorted((args.folder / "tar").iterdir())],
            resampled=True,
            shardshuffle=False,
        )
        .shuffle(100)
        .decode("pilrgb")
        .to_tuple("jpg")
        .map_tuple(transform)
        .batched(args.batch)
    )
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=args.workers)
    for (batch,) in loader:
        yield len(batch)


def contender(args: argparse.Namespace) -> Images:
    kind, _, decoder = args.contender.partition(" ")
    if kind in ("bare", "decode"):
        return loop(args, decoder, crop=kind == "bare")
    if kind == "ours":
        return ours(args, decoder)
    return webdataset(args) if kind == "webdataset" else open_clip(args)


# Turns


def cpu_seconds() -> float:
    own = psutil.Process()
    processes = [own, *own.children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def take(source: Images, images: int) -> int:
    count = 0
    while count < images:
        count += next(source)
    return count


def serve(args: argparse.Namespace) -> None:
    """The contender's process: answers each line of stdin by a turn's rates."""
    source = contender(args)
    take(source, args.batch)
    print("ready", flush=True)
    for _ in sys.stdin:
        take(source, DRAIN[args.workers] * args.batch)
        cpu, start = cpu_seconds(), time.perf_counter()
        images = take(source, args.turn)
        wall, cpu = time.perf_counter() - start, cpu_seconds() - cpu
        print(json.dumps({"rate": images / wall, "core": images / cpu}), flush=True)
    source.close()
    os._exit(0)  # does not wait for PyTorch's workers


class Contender:
    """A process that times itself on request.

    A bare loop has one process per worker, so that the same number of cores is busy.
    """

    def __init__(self, name: str, data: str, workers: int, folder: str):
        self.name = name
        self.answers: list[dict[str, float]] = []
        own = ["--contender", name, "--data", data, "--workers", str(workers)]
        alone = name in ("open_clip", "webdataset") or name.startswith("ours")
        self.processes = [
            subprocess.Popen(
                [sys.executable, __file__, *sys.argv[1:], *own, "--folder", folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "CLIPJAX_CACHE": folder, "OMP_NUM_THREADS": "1"},
            )
            for _ in range(1 if alone else max(workers, 1))
        ]
        self.read()

    def read(self) -> list[str]:
        lines = [process.stdout.readline() for process in self.processes]
        if not all(lines):
            sys.exit(f"{self.name} ended; its message is above")
        return lines

    def turn(self) -> None:
        for process in self.processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [json.loads(line) for line in self.read()]
        self.answers.append(
            {
                "rate": sum(one["rate"] for one in answers),
                "core": statistics.harmonic_mean(one["core"] for one in answers),
            }
        )
        time.sleep(1)  # until its prefetch is full

    def median(self, key: str) -> float:
        return statistics.median(answer[key] for answer in self.answers)

    def ratio(self, other: Contender, key: str = "core") -> float:
        pairs = zip(self.answers, other.answers, strict=True)
        return statistics.median(mine[key] / theirs[key] for mine, theirs in pairs)

    def close(self) -> None:
        for process in self.processes:
            process.stdin.close()
            process.wait()


def section(args: argparse.Namespace, data: str, workers: int, folder: str) -> None:
    """Prints one table: all contenders take turns on one form of the data."""
    kinds = ["decode", "bare", "ours"]
    decoders = ["pillow"]
    decoders += ["opencv"] if importlib.util.find_spec("cv2") else []
    names = [f"{kind} {decoder}" for kind in kinds for decoder in decoders]
    if importlib.util.find_spec("open_clip"):
        names.append("open_clip")
        if data == "tar" and importlib.util.find_spec("webdataset"):
            names.append("webdataset")
    contenders = {name: Contender(name, data, workers, folder) for name in names}
    for _ in range(args.rounds):
        for one in contenders.values():
            one.turn()
    for one in contenders.values():
        one.close()
    print(f"\n{data}, {workers} workers")
    print(f"{'':16}{'images/s':>10}{'per core':>11}{'of bare':>9}{'/ open_clip':>13}")
    for name, one in contenders.items():
        line = f"{name:16}{one.median('rate'):10.0f}{one.median('core'):11.0f}"
        kind, _, decoder = name.partition(" ")
        if kind == "ours":
            line += f"{one.ratio(contenders[f'bare {decoder}']):9.0%}"
            if "open_clip" in contenders:
                line += f"{one.ratio(contenders['open_clip']):13.2f}"
        print(line, flush=True)


def compare(args: argparse.Namespace, folder: str) -> None:
    count = write(args, pathlib.Path(folder))
    print(
        f"{count} images, crops of {args.size} pixels from {args.scale[0]} to "
        f"{args.scale[1]} of the area, batches of {args.batch}, {args.rounds} rounds "
        f"of {args.turn} images"
    )
    for data in ("files", "tar"):
        for workers in (0, 2):
            section(args, data, workers, folder)


# Training


def train(args: argparse.Namespace, folder: str) -> None:
    """Steps with their input, steps alone and the bare loop take turns."""
    from clipjax import commandline
    from clipjax.engine import host

    host.fast_cpu_flags()
    host.keep_memory()
    from clipjax.engine import run as runs
    from clipjax.engine import sharding
    from clipjax.engine import state as states

    write(args, pathlib.Path(folder))
    args.folder = pathlib.Path(folder)
    cores = len(os.sched_getaffinity(0))
    config = commandline.load_file(f"{CONFIG}:tokenizer=words")
    config.update_from_flattened_dict(
        {
            "data.train.path": f"{folder}/files",
            "data.image_size": args.size,
            "data.batch_size": args.batch,
            "data.workers": args.workers,
            "data.augment.scale": tuple(args.scale),
            "data.augment.decoder": args.decoder,
            "data.tokenizer.context_length": 16,
            "model.image.variant": "S/32",
            "model.image.depth": args.depth,
            "model.text.variant": "S",
            "model.text.depth": args.depth,
            "model.precision": "float32",
            "train.val_batches": 0,
            "train.steps": 10**6,
            "train.epochs": 0.0,
        }
    )
    run = runs.prepare(config, pathlib.Path(folder) / "run", True)
    state = states.initialise(
        run.model, run.loss, run.optim, False, config.seed, run.template
    )
    step, source = runs.jit_step(run), runs.batches(run, 0)
    crops = loop(args, args.decoder, crop=True)
    fixed = next(source)
    state, metrics = step(state, sharding.put_batch(run.mesh, fixed))
    metrics["loss"].block_until_ready()

    def steps(next_batch: Callable) -> dict[str, float]:
        """Dispatches each step before the last one ends, as the training loop does."""
        nonlocal state
        cpu, start = cpu_seconds(), time.perf_counter()
        late = None
        for _ in range(args.steps):
            batch = sharding.put_batch(run.mesh, next_batch())
            state, metrics = step(state, batch)
            if late is not None:
                late.block_until_ready()
            late = metrics["loss"]
        late.block_until_ready()
        wall, cpu = time.perf_counter() - start, cpu_seconds() - cpu
        return {"wall": wall / args.steps, "cpu": cpu / args.steps}

    rounds = []
    for _ in range(args.rounds):
        time.sleep(2)  # until the prefetch is full, as at the end of the turn
        with_input = steps(lambda: next(source))
        time.sleep(2)
        alone = steps(lambda: fixed)
        cpu = cpu_seconds()
        take(crops, 2 * args.batch)
        decode = (cpu_seconds() - cpu) / 2
        rounds.append(
            {
                "step with its input, s": with_input["wall"],
                "its CPU s": with_input["cpu"],
                "step alone, s": alone["wall"],
                "its CPU s, alone": alone["cpu"],
                "decoding and crops, CPU s": decode,
                "(step + decoding) CPU s / cores": (alone["cpu"] + decode) / cores,
                "wall time / that": with_input["wall"]
                * cores
                / (alone["cpu"] + decode),
                "CPU time / that": with_input["cpu"] / (alone["cpu"] + decode),
            }
        )
    source.close()
    print(
        f"batches of {args.batch}, {cores} cores, decoder {args.decoder}, "
        f"{args.workers} workers, {args.rounds} rounds of {args.steps} steps"
    )
    for name in rounds[0]:
        print(f"{name:34}{statistics.median(one[name] for one in rounds):8.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--path", required=True, help="path of data=captions")
    parser.add_argument("--images", type=int, default=200, help="images used, at most")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--scale", type=float, nargs=2, default=(0.5, 1.0))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turn", type=int, default=480, help="images per turn")
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--steps", type=int, default=10, help="a turn's steps, --train")
    parser.add_argument(
        "--depth", type=int, default=2, help="both towers' depth, --train"
    )
    parser.add_argument("--workers", type=int, default=0, help="with --train")
    parser.add_argument("--decoder", default="pillow", help="with --train")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        serve(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        (train if args.train else compare)(args, folder)


if __name__ == "__main__":
    main()
