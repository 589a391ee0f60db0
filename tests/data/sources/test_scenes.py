"""The scenes source: its captions, labels and pixels all tell the same truth."""

import collections
import concurrent.futures
import hashlib
import itertools
import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax import registry
from clipjax.data.sources import scenes
from clipjax.data.synthetic import scene_drawing, scene_grammar
from clipjax.types import Source, UserError

GALLERIES = ("val", "heldout", "attributes")
GOLDEN = {
    # split -> digest of its first 50 examples' captions, seed 3
    "train": "7c3a9fb7eab2",
    "val": "92d2cf9640c6",
    "heldout": "23038d77dc3a",
    "attributes": "12ac73d6d5c2",
}

# What a reader of the captions knows, written down apart from the grammar.
MEANING = {
    **{"disc": "circle", "plus": "cross", "hoop": "ring", "little": "small"},
    **{"big": "large", "over": "above", "under": "below", "middle": "centre"},
}
SINGULAR = {
    **{"circles": "circle", "discs": "circle", "squares": "square"},
    **{"triangles": "triangle", "stars": "star", "crosses": "cross"},
    **{"pluses": "cross", "rings": "ring", "hoops": "ring"},
}
COLOUR = "red|orange|yellow|green|cyan|blue|purple|pink"
FRAME = re.compile(
    r"(?:on a (?P<a>\w+) background, (?P<b>.*)"
    r"|(?:there (?:is|are) |a picture of )?(?P<c>.*?)"
    r"(?: on a (?P<d>\w+) background| against (?P<e>\w+))?)"
)
PROMPT = re.compile(
    r"(?:a picture of something|something|the (?:colour|size) is|the shape is a"
    r"|the (?:count|number of shapes) is|the background is) (\w+)"
    r"|a picture with a (\w+) background|a (\w+) shape"
)


@pytest.fixture(scope="module")
def sources():
    return {name: scenes.make(name) for name in scenes.SPLITS}


@pytest.fixture(scope="module")
def train_captions(sources):
    return [sources["train"][i].captions for i in range(2000)]


def understand(caption):
    """(background, objects in canonical order, place); "" for what is not said."""
    words = re.findall(r"\w+|,", caption)
    words = [MEANING.get(word, "a" if word == "an" else word) for word in words]
    text = " ".join(words).replace(" ,", ",").replace("to the left of", "left of")
    text = text.replace("to the right of", "right of")
    match = FRAME.fullmatch(text)
    background = match["a"] or match["d"] or match["e"] or ""
    body = match["b"] or match["c"]
    shapes = "|".join(sorted(set(SINGULAR.values())))
    thing = rf"a (?:(small|large) )?(?:({COLOUR}) )?({shapes})"
    kinds = re.findall(thing, body)
    many = "|".join(SINGULAR)
    if match := re.fullmatch(
        rf"(two|three) (?:(small|large) )?(?:({COLOUR}) )?({many})", body
    ):
        kind = (match[2] or "", match[3] or "", SINGULAR[match[4]])
        return background, [kind] * (2 if match[1] == "two" else 3), ""
    if match := re.fullmatch(rf"{thing} (above|below|left of|right of) {thing}", body):
        relation = match[4]
        swap = relation in ("below", "right of")
        place = "down" if relation in ("above", "below") else "across"
        return background, kinds[::-1] if swap else kinds, place
    if match := re.fullmatch(
        rf"{thing}, {thing} and {thing} from (\w+) to (\w+)", body
    ):
        ends = match[10], match[11]
        swap = ends in (("bottom", "top"), ("right", "left"))
        place = "down" if "top" in ends else "across"
        return background, kinds[::-1] if swap else kinds, place
    if match := re.fullmatch(
        rf"{thing} between {thing} (above|on the left)"
        rf" and {thing} (below|on the right)",
        body,
    ):
        place = {"above": "down", "on the left": "across"}[match[7]]
        assert match[11] == {"down": "below", "across": "on the right"}[place]
        return background, [kinds[1], kinds[0], kinds[2]], place
    match = re.fullmatch(rf"{thing}(?: (?:in|at|on) the ([a-z ]+?)(?: corner)?)?", body)
    assert match, caption
    return background, kinds, match[4] or ""


def truth(scene):
    kinds = [(kind.size, kind.colour, kind.shape) for kind in scene.kinds]
    return scene.background, kinds, scene.place


def test_is_a_source(sources):
    for name, source in sources.items():
        assert isinstance(source, Source)
        assert len(source) == (20_000 if name == "train" else 500)
        assert source.caption_counts.dtype == np.int32
        assert (source.caption_counts == source.max_captions).all()
        assert len(source[3].captions) == source.max_captions
        assert source[3].key == f"scenes/{name}/3"


@pytest.mark.parametrize("split", GALLERIES)
def test_gallery_captions_describe_their_scene_fully(sources, split):
    source = sources[split]
    for i in range(len(source)):
        captions = source[i].captions
        assert len(set(captions)) == len(captions)
        for caption in captions:
            assert understand(caption) == truth(source.scene(i))


def test_training_captions_are_true(sources, train_captions):
    """The first ones say everything, the last one leaves something out."""
    prompts = 0
    for i, (*full, brief) in enumerate(train_captions):
        scene = sources["train"].scene(i)
        for caption in full:
            assert understand(caption) == truth(scene)
        if match := PROMPT.fullmatch(brief):
            prompts += 1
            assert next(filter(None, match.groups())) in shared(scene), brief
            continue
        background, kinds, place = understand(brief)
        assert not background and place in ("", scene.place)
        if len(kinds) == 1:  # "a picture of a star" also goes with two stars
            kinds = kinds * len(scene.kinds)
        for said, true in zip(kinds, truth(scene)[1], strict=True):
            assert all(word in ("", own) for word, own in zip(said, true, strict=True))
    assert 0.25 < prompts / len(train_captions) < 0.35


def shared(scene):
    """The words that are true of the scene as a whole."""
    words = {scene.background, ("one", "two", "three")[len(scene.kinds) - 1]}
    for values in zip(*truth(scene)[1], strict=True):
        words |= set(values) if len(set(values)) == 1 else set()
    return words


def test_training_shows_no_held_out_combination(sources):
    seen = collections.Counter(
        (kind.colour, kind.shape)
        for i in range(5000)
        for kind in sources["train"].scene(i).kinds
    )
    combinations = set(itertools.product(scene_grammar.COLOURS, scene_grammar.SHAPES))
    assert set(seen) == combinations - scenes.HELD_OUT
    assert min(seen.values()) > 0.7 * seen.total() / len(seen)


def test_held_out_combinations_are_spread_over_colours_and_shapes():
    assert len(scenes.HELD_OUT) == 12
    colours = collections.Counter(colour for colour, _ in scenes.HELD_OUT)
    shapes = collections.Counter(shape for _, shape in scenes.HELD_OUT)
    assert set(colours) == set(scene_grammar.COLOURS) and max(colours.values()) <= 2
    assert set(shapes.values()) == {2} and set(shapes) == set(scene_grammar.SHAPES)


def test_training_shows_every_attribute(sources):
    some = [sources["train"].scene(i) for i in range(1000)]
    for name in ("size", "colour", "shape"):
        seen = {getattr(kind, name) for scene in some for kind in scene.kinds}
        assert seen == set(scene_grammar.CLASS_NAMES[name])
    assert {scene.background for scene in some} == set(scene_grammar.BACKGROUNDS)
    assert {scene.place for scene in some} == {
        *scene_grammar.POSITIONS,
        "",
        "across",
        "down",
    }
    assert {len(scene.kinds) for scene in some} == {1, 2, 3}


def test_splits_hold_the_right_combinations(sources):
    def new(scene):
        return [(kind.colour, kind.shape) in scenes.HELD_OUT for kind in scene.kinds]

    def every(split):
        return [sources[split].scene(i) for i in range(len(sources[split]))]

    assert not any(any(new(scene)) for scene in every("val"))
    assert all(any(new(scene)) for scene in every("heldout"))
    assert all(scene.alike for scene in every("attributes"))
    assert {k for s in every("attributes") for k in s.kinds} == set(scenes.KINDS)


@pytest.mark.parametrize("split", GALLERIES)
@pytest.mark.parametrize("seed", [0, 7])
def test_no_two_gallery_scenes_share_a_description(split, seed):
    source = scenes.make(split, seed=seed)
    every = [source.scene(i) for i in range(len(source))]
    assert len(set(every)) == len(every)
    owner = {}
    for i in range(len(source)):
        for caption in source[i].captions:
            assert owner.setdefault(caption, i) == i


@pytest.mark.parametrize("split", ["val", "heldout"])
def test_no_gallery_scene_contains_another(sources, split):
    contents = collections.defaultdict(list)
    for i in range(500):
        scene = sources[split].scene(i)
        contents[scene.background].append(collections.Counter(scene.kinds))
    for some in contents.values():
        assert not any(a < b for a, b in itertools.permutations(some, 2))


def test_labels_agree_with_the_truth(sources):
    for i in range(500):
        example, scene = sources["val"][i], sources["val"].scene(i)
        words = {k: scene_grammar.CLASS_NAMES[k][v] for k, v in example.labels.items()}
        assert words.pop("background") == scene.background
        assert words.pop("count") == ("one", "two", "three")[len(scene.kinds) - 1]
        for name in ("shape", "colour", "size"):
            values = {getattr(kind, name) for kind in scene.kinds}
            assert words.get(name) == (values.pop() if len(values) == 1 else None)


def objects(image, background):
    """Pixels of each object as [n 2] (row, column), largest parts of the foreground."""
    away = np.abs(image.astype(int) - background).max(-1) > 40
    parts = []
    while away.any():
        todo = [tuple(np.argwhere(away)[0])]
        part = []
        while todo:
            y, x = todo.pop()
            if 0 <= y < len(away) and 0 <= x < len(away) and away[y, x]:
                away[y, x] = False
                part.append((y, x))
                todo += [(y + a, x + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
        parts.append(np.array(part))
    return [part for part in parts if len(part) > 8]


@pytest.mark.parametrize("split", ["attributes", "heldout"])
def test_pixels_agree_with_the_truth(sources, split):
    """Number, colours, order along the line, place and size, all from the pixels."""
    names = {name: np.array(scene_drawing.RGB[name]) for name in scene_grammar.COLOURS}
    for i in range(120):
        image, scene = sources[split][i].image, sources[split].scene(i)
        corner = image[0, 0].astype(int)
        nearest = min(
            scene_grammar.BACKGROUNDS,
            key=lambda n: np.abs(corner - scene_drawing.RGB[n]).max(),
        )
        assert nearest == scene.background
        parts = objects(image, corner)
        assert len(parts) == len(scene.kinds)
        axis = {"down": 0, "across": 1}.get(scene.place)
        if axis is not None:
            parts.sort(key=lambda part: part[:, axis].mean())
        for part, kind in zip(parts, scene.kinds, strict=True):
            pixels = image[part[:, 0], part[:, 1]].astype(int)
            away = {n: np.abs(pixels - c).max(-1) for n, c in names.items()}
            inside = {n: (d <= scene_drawing.JITTER + 1).sum() for n, d in away.items()}
            assert max(inside, key=inside.get) == kind.colour
            width = np.ptp(part, axis=0).max() + 1
            least = 12.5 if kind.shape == "square" else 14.5
            assert (width > least) == (kind.size == "large")
        if len(scene.kinds) == 1:
            row, column = (3 * parts[0].mean(0) / len(image)).astype(int)
            assert scene_grammar.POSITIONS[3 * row + column] == scene.place


def test_shapes_differ():
    """Coverage of the six shapes, upright at one place: no two are nearly alike."""
    masks = {}
    for shape in scene_grammar.SHAPES:
        image = np.zeros((32, 32, 3), np.float32)
        scene_drawing._paint(image, shape, np.ones(3, np.float32), 0.5, 0.5, 0.4, 0.0)
        masks[shape] = image[..., 0]
        assert 0 <= image.min() and image.max() == 1
        assert np.allclose(masks[shape], masks[shape][:, ::-1], atol=1e-4)
        assert 0.15 * 0.64 < masks[shape].mean() < 0.64
    assert masks["ring"][16, 16] == 0 and masks["ring"][16, 6] == 1
    assert masks["cross"][6, 16] == 1 and masks["cross"][8, 8] == 0
    assert masks["square"][8, 8] == 1 and masks["circle"][7, 7] == 0
    triangle, star = masks["triangle"], masks["star"]
    assert triangle[:10].sum() < triangle[12:22].sum()
    assert star[:8].sum() > 0 and star[-6:, 15:17].sum() == 0
    for one, two in itertools.combinations(masks.values(), 2):
        assert np.abs(one - two).sum() > 0.15 * min(one.sum(), two.sum())


def test_prompts_are_training_captions(sources, train_captions):
    """Word for word, except those of rare classes; each word at the very least."""
    short = {captions[-1] for captions in train_captions}
    words = {
        word.strip(",") for some in train_captions for c in some for word in c.split()
    }
    source = sources["attributes"]
    assert set(source.class_names) == set(source.templates)
    prompts = [
        template.format(name)
        for label_set, names in source.class_names.items()
        for template in source.templates[label_set]
        for name in names
    ]
    assert all(set(prompt.split()) <= words for prompt in prompts)
    assert sum(prompt in short for prompt in prompts) > 0.9 * len(prompts)


def test_captions_fit_32_tokens(sources):
    longest = max(
        len(re.findall(r"\w+|,", caption))
        for source in sources.values()
        for i in range(500)
        for caption in source[i].captions
    )
    assert longest <= 30


def test_golden_descriptions():
    """Training results depend on them: change the digests only with a reason."""
    digests = {}
    for split in scenes.SPLITS:
        source = scenes.make(split, seed=3, resolution=16)
        text = "\n".join(c for i in range(50) for c in source[i].captions)
        digests[split] = hashlib.sha256(text.encode()).hexdigest()[:12]
    assert digests == GOLDEN


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**63 - 1),
    index=st.integers(0, 19_999),
    resolution=st.integers(16, 80),
)
def test_any_seed_and_index(seed, index, resolution):
    source = scenes.make("train", seed=seed, resolution=resolution)
    example = source[index]
    assert example.image.shape == (resolution, resolution, 3)
    assert example.image.dtype == np.uint8
    assert np.ptp(example.image.astype(int), axis=(0, 1)).max() > 30  # not empty
    again = pickle.loads(pickle.dumps(source))[index]
    assert np.array_equal(again.image, example.image)
    assert (again.captions, again.labels) == (example.captions, example.labels)


def test_order_and_threads_change_nothing(sources):
    source = sources["heldout"]
    want = [source[i] for i in range(64)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        got = list(pool.map(source.__getitem__, reversed(range(64))))[::-1]
    for one, two in zip(want, got, strict=True):
        assert np.array_equal(one.image, two.image) and one.captions == two.captions


def test_seeds_and_splits_differ(sources):
    other = scenes.make("train", seed=1)
    scene = [[s.scene(i) for i in range(20)] for s in (*sources.values(), other)]
    assert all(one != two for one, two in itertools.combinations(scene, 2))


def test_growing_the_training_set_keeps_its_beginning(sources):
    more = scenes.make("train", size=10**6)
    assert [more.scene(i) for i in range(50)] == [
        sources["train"].scene(i) for i in range(50)
    ]
    assert np.array_equal(more[7].image, sources["train"][7].image)


@pytest.mark.parametrize(
    ("split", "index"), [("train", 20_000), ("val", 500), ("val", -1)]
)
def test_out_of_range(sources, split, index):
    with pytest.raises(IndexError):
        sources[split][index]
    with pytest.raises(IndexError):
        sources[split].scene(index)


@pytest.mark.parametrize(
    ("split", "options", "word"),
    [
        ("test", {}, "heldout"),
        ("train", {"seed": -1}, "seed=-1"),
        ("train", {"size": 0}, "size=0"),
        ("train", {"size": 10**9}, "use 1 to 10000000"),
        ("val", {"eval_size": 1001}, "use 1 to 1000"),
        ("val", {"resolution": 8}, "resolution=8"),
    ],
)
def test_bad_options(split, options, word):
    with pytest.raises(UserError, match=word) as caught:
        scenes.make(split, **options)
    assert "\n" not in str(caught.value)


def test_a_gallery_that_cannot_be_filled_says_so(monkeypatch):
    monkeypatch.setattr(scenes, "_TRIES", 1)
    with pytest.raises(UserError, match=r"use \d+ or fewer"):
        scenes.make("heldout", eval_size=1000)


def test_is_registered():
    assert registry.load("data", "scenes") is scenes.make
    known = {"seed", "size", "eval_size", "resolution", "parts"}
    assert set(registry.options(scenes.make)) == known


@given(st.sampled_from(GALLERIES), st.integers(0, 99), st.sampled_from([32, 64, 97]))
@settings(max_examples=15)
def test_boxes_hold_their_objects(split, index, resolution):
    """Outside all boxes is background; each side of a box touches its object."""
    source = scenes.make(split, eval_size=100, resolution=resolution)
    scene, boxes = source.scene(index), source.boxes(index)
    image = source[index].image.astype(int)
    ground = np.array(scene_drawing.RGB[scene.background])
    outside, furthest = np.ones(image.shape[:2], bool), 0
    assert len(boxes) == len(scene.kinds)
    for kind, (left, top, right, bottom) in zip(scene.kinds, boxes, strict=True):
        outside[top:bottom, left:right] = False
        colour = np.array(scene_drawing.RGB[kind.colour])
        furthest = np.maximum(furthest, np.abs(colour - ground))
        inside = image[top:bottom, left:right]
        closer = np.abs(inside - colour).sum(-1) - np.abs(inside - ground).sum(-1)
        for edge in (closer[0], closer[-1], closer[:, 0], closer[:, -1]):
            assert edge.min() < 6 * (scene_drawing.JITTER + 1)
    # At most half covered.
    off = np.abs(image - ground) - furthest / 2
    assert off[outside].max() <= 1.5 * scene_drawing.JITTER + 1


def test_parts_name_one_object():
    source, plain = scenes.make("train", parts=True), scenes.make("train")
    seen = collections.Counter()
    for index in range(300):
        scene, captions = source.scene(index), source.captions_of(index)
        assert scene == plain.scene(index)
        assert captions[0] == plain.captions_of(index)[0]
        assert len(captions) == source.caption_counts[index]
        for caption in captions[1:]:
            words = caption.removeprefix("a picture of ").split()
            assert words.pop(0) in ("a", "an")
            words = {MEANING.get(word, word) for word in words}
            fits = [
                kind
                for kind in scene.kinds
                if words <= {kind.size, kind.colour, kind.shape} and kind.shape in words
            ]
            assert fits, (caption, scene)
            seen["colour"] += len(words) > 1
            seen["several"] += len(set(scene.kinds)) > 1
    assert 0.7 < seen["colour"] / 600 < 0.95 and seen["several"] > 200
