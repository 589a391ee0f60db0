"""Times one image, one text, 64 images and the first embedding, beside transformers.

    python benchmarks/single_item.py --peer_python VENV/bin/python
    python benchmarks/single_item.py --only generator

The model has ViT-B/32's shape and random weights, and both sides read it from one
folder. Each side is a process, and they take turns. A picture is a JPEG of 640 x 480
pixels; times run from its path to its embedding, decoding included. The results are
medians over the rounds, in wall and CPU seconds (all threads), and their ratios. The
peer's Python needs torch and transformers; without --peer_python only clipjax is
measured.

The generator benchmark encodes 50,000 images of 32 x 32 pixels by a tiny model, from a
generator and from a list, in turns. It prints the memory that the process has gained at
each tenth.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import released_clip

CASES = ("image", "text", "images")
TEXT = "a photo of a small dog that runs over a meadow in the evening sun"
PICTURES = 64


def write_inputs(folder: pathlib.Path) -> None:
    """Writes the model as transformers saves it, and the pictures."""
    released_clip.write_model(folder / "model", "hf")
    for number, picture in enumerate(released_clip.pictures(PICTURES)):
        (folder / f"{number:02}.jpg").write_bytes(picture)


def ours(folder: pathlib.Path):
    """Returns case -> a function that returns embeddings."""
    import clipjax

    clip = clipjax.load(folder / "model")
    paths = sorted(folder.glob("*.jpg"))
    return {
        "image": lambda: clip.encode_image(paths[0]),
        "text": lambda: clip.encode_text(TEXT),
        "images": lambda: clip.encode_image(paths),
    }


def theirs(folder: pathlib.Path):
    """Returns the same by transformers."""
    import torch  # pyright: ignore[reportMissingImports]
    from PIL import Image
    from transformers import (  # pyright: ignore[reportMissingImports]
        CLIPModel,
        CLIPProcessor,
    )

    model = CLIPModel.from_pretrained(folder / "model").eval()
    processor = CLIPProcessor.from_pretrained(folder / "model")
    paths = sorted(folder.glob("*.jpg"))

    def unit(output):
        vectors = getattr(output, "pooler_output", output)
        return (vectors / vectors.norm(dim=-1, keepdim=True)).numpy()

    def images(paths):
        with torch.inference_mode():
            pictures = [Image.open(path) for path in paths]
            inputs = processor(images=pictures, return_tensors="pt")
            return unit(model.get_image_features(**inputs))

    def text():
        with torch.inference_mode():
            inputs = processor(text=[TEXT], return_tensors="pt", padding=True)
            return unit(model.get_text_features(**inputs))

    return {
        "image": lambda: images(paths[:1])[0],
        "text": lambda: text()[0],
        "images": lambda: images(paths),
    }


def serve(side: str, folder: pathlib.Path) -> None:
    """Answers each case on stdin by a line of JSON: seconds, and an embedding."""
    cases = {"clipjax": ours, "transformers": theirs}[side](folder)
    for line in sys.stdin:
        case = line.strip()
        wall, cpu = time.perf_counter(), time.process_time()
        embeddings = cases[case]()
        seconds = time.perf_counter() - wall, time.process_time() - cpu
        row = embeddings.reshape(-1, embeddings.shape[-1])[-1].tolist()
        print(json.dumps({"seconds": seconds, "row": row}), flush=True)


class Side:
    """One side's process."""

    def __init__(self, python: str, side: str, folder: pathlib.Path):
        command = [python, __file__, "--serve", side, "--folder", str(folder)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, case: str) -> dict:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{case}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def first_embedding(python: str, side: str, folder: pathlib.Path) -> list[float]:
    """Returns wall and CPU seconds from a process's start to its first embedding."""
    before, wall = os.times(), time.perf_counter()
    process = Side(python, side, folder)
    process.ask("image")
    seconds = time.perf_counter() - wall
    process.close()
    after = os.times()
    cpu = after.children_user + after.children_system
    return [seconds, cpu - before.children_user - before.children_system]


def compare(pythons: dict[str, str], folder: pathlib.Path, rounds: int) -> None:
    sides = {side: Side(python, side, folder) for side, python in pythons.items()}
    for case in CASES:
        rows = [side.ask(case)["row"] for side in sides.values()]  # compiles
        if len(rows) > 1:
            worst = max(abs(a - b) for a, b in zip(*rows, strict=True))
            print(f"{case}: embeddings differ by {worst:.1e} at most", flush=True)
        asks = {
            name: lambda side=side, case=case: side.ask(case)["seconds"]
            for name, side in sides.items()
        }
        in_turns(case, asks, rounds)
    for side in sides.values():
        side.close()
    starts = {
        name: lambda name=name, python=python: first_embedding(python, name, folder)
        for name, python in pythons.items()
    }
    in_turns("first embedding", starts, rounds)


def in_turns(case: str, sides: dict[str, Callable], rounds: int) -> None:
    """Prints each side's medians, and their ratios."""
    times: dict[str, list] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            times[name].append(side())
    medians = {
        name: [statistics.median(column) for column in zip(*pairs, strict=True)]
        for name, pairs in times.items()
    }
    for name, (wall, cpu) in medians.items():
        print(f"{case}: {name} {wall:.3f} s, CPU {cpu:.3f} s", flush=True)
    if len(medians) > 1:
        both = zip(medians["clipjax"], medians["transformers"], strict=True)
        wall, cpu = (ours / peer for ours, peer in both)
        print(
            f"{case}: clipjax / transformers {wall:.2f}, CPU {cpu:.2f}",
            flush=True,
        )


def resident() -> float:
    """Returns the memory of this process in MB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def generator(folder: pathlib.Path, count: int, rounds: int) -> None:
    import jax
    import numpy as np

    from clipjax import config, loaded, registry
    from clipjax.encoder import Encoder
    from clipjax.models import two_tower

    towers = {"width": 64, "depth": 2, "heads": 2}
    image = registry.load("image", "vit")(32, variant="Ti/8", **towers)
    text = registry.load("text", "transformer")(100, 16, **towers)
    model = two_tower.make(image, text, embed_dim=64)
    variables = jax.jit(model.init)(jax.random.key(0))
    preprocess = registry.load("preprocess", "clip")(32)
    encoder = Encoder(model, None, preprocess, few_sizes=True)
    clip = loaded.Loaded(config, model, variables, None, preprocess, encoder, 0)
    pictures = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    clip.encode_image(pictures[:64])
    images = list(pictures)
    rates: dict[str, list[float]] = {"generator": [], "list": []}
    for number in range(rounds):
        for name in rates:
            before, gained = resident(), []

            def progress(done, total, before=before, gained=gained):
                if done * 10 // count > len(gained):
                    gained.append(round(resident() - before))

            argument = images if name == "list" else (image for image in images)
            begin = time.perf_counter()
            rows = clip.encode_image(argument, progress=progress)
            rates[name].append(count / (time.perf_counter() - begin))
            assert len(rows) == count
            del rows
            if not number:
                print(f"{name}: MB gained at each tenth: {gained}")
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, median in medians.items():
        print(f"{name}: {median:,.0f} images/s")
    print(f"generator / list: {medians['generator'] / medians['list']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peer_python", default="")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--only", choices=["items", "generator"])
    parser.add_argument("--folder", help="folder that keeps the model and the pictures")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, pathlib.Path(args.folder))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(args.folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if args.only != "generator":
            if not (folder / "model").exists():
                write_inputs(folder)
            pythons = {"clipjax": sys.executable}
            if args.peer_python:
                pythons["transformers"] = args.peer_python
            compare(pythons, folder, args.rounds)
        if args.only != "items":
            generator(folder, args.count, args.rounds)


if __name__ == "__main__":
    main()
