"""Whether maps point at what a caption names, on drawn scenes with known positions.

    python -m clipjax.train --config configs/pointing.py
    python benchmarks/pointing.py --model runs/pointing

Each scene has two or three objects of different kinds; the caption names one by colour
and shape. `hit`: the map's largest value, enlarged to the image's pixels, lies in the
object's box; `energy`: the share of the map in the box (of a map with negative numbers,
above its lowest). Chance is the box's share of the image, `centre` the hits of the
image's centre, `ceiling` those of a map that says how much of each place the box
covers. Controls, on the same box: the map of a caption of another object of the scene
(`other`), and of a caption whose colour and shape are both absent (`wrong`). `named`:
of all the scene's boxes the named object's has the largest mean of the map, by chance
in one of two or three.

Deletion: the places of a map, the most relevant first, take the image's mean colour;
insertion: they come back into an image of that colour. The numbers are the mean cosine
with the caption over the curve; a map that knows what counts has a low deletion and a
high insertion. `random` is a random order.

Words: of each scene's full caption, the words are left out one at a time. `rank` is
Spearman's correlation of a word's relevance and the fall of the cosine without it,
`top` the fall without the most relevant word, beside that of all words' mean.

Intervals are 95 %: Wilson's for hits, Bonett's and Price's for differences of hits,
bootstrapped over scenes for the rest.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

import clipjax
from clipjax.comparison.paired_tests import Pairs, share_interval
from clipjax.data.sources import scenes
from clipjax.data.synthetic import scene_grammar
from clipjax.evals.common.intervals import wilson
from clipjax.saliency import overlays, word_relevance
from clipjax.saliency.image_maps import ImageMaps

STEPS = 16  # of a deletion or insertion curve


class Pointed(NamedTuple):
    """A scene: its image, a box [left top right bottom], and three captions."""

    pixels: np.ndarray
    box: np.ndarray
    boxes: np.ndarray  # of all objects, the named one's first
    captions: tuple[str, str, str]  # of the object, of another one, of an absent one
    full: str


def named(colour: str, shape: str) -> str:
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape}"


def drawn(clip: clipjax.Loaded, count: int, seed: int) -> list[Pointed]:
    """Scenes of objects of different kinds, of combinations that training shows."""
    side = clip.encoder.image_shape[0]
    source = scenes.make(
        "val", seed=seed, eval_size=min(1000, 2 * count), resolution=side
    )
    rng, found = np.random.default_rng(seed), []
    pairs = {(kind.colour, kind.shape) for kind in scenes.KINDS} - scenes.HELD_OUT
    for index in range(len(source)):
        scene = source.scene(index)
        kinds = [(kind.colour, kind.shape) for kind in scene.kinds]
        if len(found) == count or len(set(kinds)) < max(2, len(kinds)):
            continue
        one, other = rng.permutation(len(kinds))[:2]
        colours, shapes = zip(*kinds, strict=True)
        absent = sorted(
            pair for pair in pairs if pair[0] not in colours and pair[1] not in shapes
        )
        captions = kinds[one], kinds[other], scene_grammar.pick(rng, absent)
        example = source[index]
        pixels = clip.preprocess(example.image)
        assert np.array_equal(pixels, example.image)  # or the boxes would not fit
        texts = named(*captions[0]), named(*captions[1]), named(*captions[2])
        boxes = source.boxes(index)
        boxes = np.concatenate([boxes[one : one + 1], np.delete(boxes, one, axis=0)])
        found.append(Pointed(pixels, boxes[0], boxes, texts, example.captions[0]))
    if len(found) < count:
        raise SystemExit(f"only {len(found)} such scenes: use a smaller --scenes")
    return found


def embedded(clip: clipjax.Loaded, texts: list[str]) -> np.ndarray:
    every = sorted(set(texts))
    rows = dict(zip(every, clip.encode_text(every), strict=True))
    return np.stack([rows[text] for text in texts])


def hit(values: np.ndarray, box: np.ndarray, side: int) -> float:
    """Whether the largest value lies in the box; shared between equal largest ones."""
    large = overlays.enlarged(values, side)
    most = large == large.max()
    left, top, right, bottom = box
    return float(most[top:bottom, left:right].sum() / most.sum())


def energy(values: np.ndarray, box: np.ndarray, side: int) -> float:
    large = overlays.enlarged(values, side)
    large = large - min(0.0, float(large.min()))
    left, top, right, bottom = box
    total = float(large.sum())
    return float(large[top:bottom, left:right].sum()) / total if total > 0 else 0.0


def is_named(values: np.ndarray, boxes: np.ndarray, side: int) -> float:
    """Whether the first box has the largest mean; shared between equal ones."""
    large = overlays.enlarged(values, side)
    means = np.array(
        [large[top:bottom, left:right].mean() for left, top, right, bottom in boxes]
    )
    most = means == means.max()
    return float(most[0] / most.sum())


def covered(box: np.ndarray, shape: tuple[int, ...], side: int) -> np.ndarray:
    """float [rows columns]: how much of each place the box covers."""
    rows, columns = shape
    found = np.zeros((rows, columns))
    left, top, right, bottom = box
    for y in range(top, bottom):
        for x in range(left, right):
            found[y * rows // side, x * columns // side] += 1
    return found


def spread(values: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """The mean, and its interval bootstrapped over scenes."""
    rng = np.random.default_rng(seed)
    draws = values[rng.integers(0, len(values), (2000, len(values)))].mean(axis=1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def share(hits: np.ndarray) -> tuple[float, float, float]:
    return float(hits.mean()), *wilson(float(hits.mean()), len(hits))


def gain(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """second - first, of hits of the same scenes."""
    n = len(first)
    pairs = Pairs(first, second, np.full(n, 1 / n), np.arange(n))
    return pairs.difference, *share_interval(pairs)


def curves(
    clip: clipjax.Loaded, chosen: list[Pointed], texts: np.ndarray, maps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean cosines over the curve of each scene: deletion, insertion."""
    rows, columns = maps.shape[1:]
    side = chosen[0].pixels.shape[0]
    found = np.zeros((2, len(chosen)))
    for place, (scene, text, values) in enumerate(
        zip(chosen, texts, maps, strict=True)
    ):
        order = np.argsort(-values.ravel(), kind="stable")
        rank = np.empty(len(order), int)
        rank[order] = np.arange(len(order))
        # The rank of each pixel's place.
        at = np.arange(side) * rows // side, np.arange(side) * columns // side
        ranks = rank.reshape(rows, columns)[at[0][:, None], at[1][None]]
        limits = np.arange(STEPS + 1)[:, None, None] * len(order) / STEPS
        gone = (ranks[None] < limits)[..., None]
        mean = np.rint(scene.pixels.mean(axis=(0, 1))).astype(np.uint8)
        deleted = np.where(gone, mean, scene.pixels[None])
        inserted = np.where(gone, scene.pixels[None], mean)
        both = clip.encode_image(np.concatenate([deleted, inserted])) @ text
        found[:, place] = both.reshape(2, -1).mean(axis=1)
    return found[0], found[1]


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's; ranks of equal numbers are their mean."""

    def ranks(values: np.ndarray) -> np.ndarray:
        below = (values[None] < values[:, None]).sum(axis=1)
        return below + ((values[None] == values[:, None]).sum(axis=1) - 1) / 2

    first, second = ranks(one), ranks(other)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def words(clip: clipjax.Loaded, chosen: list[Pointed]) -> dict[str, Any]:
    """What leaving words out says of each method for texts."""
    assert clip.tokenizer is not None
    made = word_relevance.TextRelevance(clip.model, clip.variables, clip.tokenizer)
    images = clip.encode_image(np.stack([scene.pixels for scene in chosen]))
    falls = []
    for scene, image in zip(chosen, images, strict=True):
        parts = scene.full.split()
        less = [" ".join(parts[:i] + parts[i + 1 :]) for i in range(len(parts))]
        cosines = clip.encode_text([scene.full, *less]) @ image
        falls.append(cosines[0] - cosines[1:])
    found = {"all words": {"fall": spread(np.array([fall.mean() for fall in falls]))}}
    for method in word_relevance.METHODS:
        shares = [
            made.words([scene.full], image[None], method)[0][1][0]
            for scene, image in zip(chosen, images, strict=True)
        ]
        pairs = list(zip(shares, falls, strict=True))
        found[method] = {
            "rank": spread(np.array([correlation(*pair) for pair in pairs])),
            "fall": spread(np.array([fall[np.argmax(own)] for own, fall in pairs])),
        }
    return found


def measure(clip: clipjax.Loaded, chosen: list[Pointed], seed: int) -> dict[str, Any]:
    maps = ImageMaps(clip.model, clip.variables)
    side = chosen[0].pixels.shape[0]
    pixels = np.stack([scene.pixels for scene in chosen])
    texts = embedded(clip, [text for scene in chosen for text in scene.captions])
    texts = texts.reshape(len(chosen), 3, -1)
    boxes = [scene.box for scene in chosen]
    areas = np.array([(box[2] - box[0]) * (box[3] - box[1]) for box in boxes]) / side**2
    middle = (side - 1) / 2
    centre = np.array(
        [
            float(box[0] <= middle < box[2] and box[1] <= middle < box[3])
            for box in boxes
        ]
    )
    found: dict[str, Any] = {
        "scenes": len(chosen),
        "chance": spread(areas),
        "centre": share(centre),
        "methods": {},
    }
    for method in maps.methods:
        start = time.monotonic()
        made, cosines = maps(pixels, texts, method)
        seconds = time.monotonic() - start
        hits = np.array(
            [
                [hit(values, box, side) for values in own]
                for own, box in zip(made, boxes, strict=True)
            ]
        )
        energies = np.array(
            [
                [energy(values, box, side) for values in own]
                for own, box in zip(made, boxes, strict=True)
            ]
        )
        named_first = np.array(
            [
                is_named(own[0], scene.boxes, side)
                for own, scene in zip(made, chosen, strict=True)
            ]
        )
        deletion, insertion = curves(clip, chosen, texts[:, 0], made[:, 0])
        found["methods"][method] = {
            "hit": share(hits[:, 0]),
            "named": share(named_first),
            "other": share(hits[:, 1]),
            "wrong": share(hits[:, 2]),
            "above centre": gain(centre, hits[:, 0]),
            "above other": gain(hits[:, 1], hits[:, 0]),
            "above wrong": gain(hits[:, 2], hits[:, 0]),
            "energy": spread(energies[:, 0]),
            "energy wrong": spread(energies[:, 2]),
            "deletion": spread(deletion),
            "insertion": spread(insertion),
            "seconds": seconds,
        }
        found["matched"] = float((cosines[:, 0] > cosines[:, 2]).mean())
    shape = made.shape[2:]
    best = [hit(covered(box, shape, side), box, side) for box in boxes]
    found["ceiling"] = share(np.array(best))
    objects = np.array([1 / len(scene.boxes) for scene in chosen])
    found["named chance"] = spread(objects)
    random = np.random.default_rng(seed).random(made[:, 0].shape)
    deletion, insertion = curves(clip, chosen, texts[:, 0], random)
    found["random"] = {"deletion": spread(deletion), "insertion": spread(insertion)}
    found["words"] = words(clip, chosen)
    return found


def cell(value: tuple[float, float, float], percent: bool = True) -> str:
    form = (lambda x: f"{100 * x:.1f}") if percent else (lambda x: f"{x:.3f}")
    return f"{form(value[0])} ({form(value[1])} to {form(value[2])})"


def show(console: Console, found: dict[str, Any]) -> None:
    console.print(
        f"{found['scenes']} scenes; chance {cell(found['chance'])} %, centre "
        f"{cell(found['centre'])} %, ceiling {cell(found['ceiling'])} %, named by "
        f"chance {cell(found['named chance'])} %; the caption beats the wrong one in "
        f"{100 * found['matched']:.1f} %"
    )
    columns = (
        "hit",
        "named",
        "other",
        "wrong",
        "above centre",
        "above wrong",
        "energy",
    )
    table = Table(box=None, header_style="")
    for name in ("method", *(f"{name}, %" for name in columns)):
        table.add_column(name, no_wrap=True)
    for method, values in found["methods"].items():
        table.add_row(method, *(cell(values[name]) for name in columns))
    console.print(table)
    table = Table(box=None, header_style="")
    for name in ("order", "deletion", "insertion"):
        table.add_column(name, no_wrap=True)
    for method, values in {**found["methods"], "random": found["random"]}.items():
        table.add_row(
            method, *(cell(values[name], False) for name in ("deletion", "insertion"))
        )
    console.print(table)
    table = Table(box=None, header_style="")
    for name in ("words", "rank", "fall without the top word"):
        table.add_column(name, no_wrap=True)
    for method, values in found["words"].items():
        rank = cell(values["rank"], False) if "rank" in values else ""
        table.add_row(method, rank, cell(values["fall"], False))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="runs/pointing")
    parser.add_argument("--checkpoint", default="latest")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="", help="a JSON file of the numbers")
    flags = parser.parse_args()
    clip = clipjax.load(flags.model, checkpoint=flags.checkpoint)
    found = measure(clip, drawn(clip, flags.scenes, flags.seed), flags.seed)
    show(Console(width=190), found)
    if flags.out:
        text = json.dumps(found, indent=1) + "\n"
        pathlib.Path(flags.out).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
