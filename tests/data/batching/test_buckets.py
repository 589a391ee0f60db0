"""Text buckets: chosen by the global batch, the same texts, the same embeddings."""

import itertools
import json

import jax
import jax.numpy as jnp
import model_tools
import numpy as np
import pytest

import run_tools
from clipjax import config, registry
from clipjax.data.batching import buckets, pipeline
from clipjax.data.images import augment
from clipjax.data.tokenizers import words
from clipjax.engine import run as runs
from clipjax.models.text import bert, distilbert, transformer
from clipjax.types import BadExample, Example, UserError

WORDS = "a b c d e f g h i j k l m n".split()


class Lengths:
    """Images of 2x2 pixels; the captions of example i have i % 9 and i % 4 words."""

    templates: dict = {}
    class_names: dict = {}
    max_captions = 2

    def __init__(self, size=40, broken=()):
        self.broken = frozenset(broken)
        self.caption_counts = np.full(size, 2, np.int32)

    def __len__(self):
        return len(self.caption_counts)

    def captions_of(self, index):
        if index in self.broken:
            raise BadExample("it is broken")
        return [" ".join(WORDS[: index % n]) for n in (9, 4)]

    def __getitem__(self, index):
        image = np.full((2, 2, 3), index, np.uint8)
        return Example(image, self.captions_of(index), key=f"x/{index}")


TOKENIZER = words.make(lambda: iter([" ".join(WORDS)]), None, context_length=12)


def batches(source, sizes, count=6, global_batch=4, **options):
    made = pipeline.train_batches(
        source,
        TOKENIZER,
        augment.none(2),
        seed=3,
        global_batch=global_batch,
        start_step=0,
        text_buckets=buckets.make(sizes, source, TOKENIZER) if sizes else None,
        **options,
    )
    try:
        return [next(made) for _ in range(count)]
    finally:
        made.close()


def test_lengths_by_hand():
    made = buckets.make((4, 8), Lengths(), TOKENIZER)
    assert made.sizes == (4, 8, 12)
    # Start and end beside 5 and 1 words; 8 and 0; 0 and 1.
    assert [made.tokens[made.first[i] + c] for i in (5, 8, 9) for c in (0, 1)] == (
        [7, 3, 10, 2, 2, 3]
    )
    assert made.size([(9, 0), (9, 1)]) == 4
    assert made.size([(9, 0), (5, 0)]) == 8
    assert made.size([(8, 0), (9, 0)]) == 12


@pytest.mark.thorough
@pytest.mark.parametrize("options", [{"threads": 2}, {"workers": 2}])
def test_the_same_texts_at_the_shortest_length_that_holds_them(options):
    whole = batches(Lengths(), ())
    seen = set()
    for one, other in zip(whole, batches(Lengths(), (4, 8), **options), strict=True):
        longest = one["text_mask"].sum(axis=1).max()
        size = other["text"].shape[1]
        assert size == next(n for n in (4, 8, 12) if n >= longest)
        seen.add(size)
        for name in ("text", "text_mask"):
            np.testing.assert_array_equal(other[name], one[name][:, :size])
            assert not one[name][:, size:].any()
        for name in one.keys() - {"text", "text_mask"}:
            np.testing.assert_array_equal(other[name], one[name])
    assert len(seen) > 1


@pytest.mark.parametrize("count", [2, 4])
def test_all_processes_agree(count):
    whole = batches(Lengths(), (4, 6, 8))
    parts = [
        batches(Lengths(), (4, 6, 8), process_index=i, process_count=count)
        for i in range(count)
    ]
    alone = 0
    for one, *shares in zip(whole, *parts, strict=True):
        for name, value in one.items():
            found = [share[name] for share in shares]
            assert {len(share) for share in found} == {4 // count}
            np.testing.assert_array_equal(np.concatenate(found), value)
        longest = [share["text_mask"].sum(axis=1).max() for share in shares]
        sizes = {next(n for n in (4, 6, 8, 12) if n >= found) for found in longest}
        alone += len(sizes) > 1
    assert alone > 2  # where each would have chosen another by its own texts


def test_a_replacement_is_cut_and_keeps_its_end():
    source = Lengths(broken=[i for i in range(40) if i % 9 < 3])
    found = batches(source, (4, 5), count=20, global_batch=1)
    cut = 0
    for one in found:
        length = one["text_mask"][0].sum()
        assert one["text"][0, length - 1] == words.END
        if one["replaced"][0]:
            assert one["text"].shape[1] == 4  # as what it replaces, of no known length
            cut += length == 4
    assert cut


@pytest.mark.thorough
def test_embeddings_are_those_of_full_padding():
    model = model_tools.make_model(text={"pool": "mean", "causal": False})
    variables, batch = model_tools.init(model), model_tools.make_batch()
    text, mask = batch["text"], batch["text_mask"]
    whole = model_tools.encode_text(model, variables, text, mask)
    short = model_tools.encode_text(model, variables, text[:, :6], mask[:, :6])
    np.testing.assert_allclose(
        short["text_embed"], whole["text_embed"], rtol=1e-5, atol=1e-6
    )


KEY = jax.random.key(0)
SMALL = {"width": 8, "depth": 1, "heads": 2}
POOLS = {
    "bert": bert.POOLS,
    "distilbert": distilbert.POOLS,
    "transformer": transformer.POOLS,
}


def every_tower():
    """(name, options) of each text tower, in each of its forms."""
    assert registry.names("text") == sorted(POOLS)
    for name, pools in POOLS.items():
        for pool in pools:
            if name != "transformer":
                yield name, {"pool": pool}
                continue
            for causal, masked in itertools.product((True, False), repeat=2):
                if pool == "cls" and causal:
                    continue
                options = {"pool": pool, "causal": causal, "masked": masked}
                yield name, options
                if pool == "mean":
                    yield name, options | {"norm_pooled": True}


@pytest.mark.slow
def test_every_tower_knows_whether_padding_changes_it():
    """What it says decides whether buckets are refused; both answers are tried."""
    said = []
    rng = np.random.default_rng(0)
    text = rng.integers(1, 20, (3, 12)).astype(np.int32)
    mask = np.arange(12) < np.array([[2], [5], [6]])
    text, mask = jnp.asarray(np.where(mask, text, 0)), jnp.asarray(mask)
    for name, options in every_tower():
        tower = registry.load("text", name)(20, 12, **SMALL, **options)
        shapes = jax.eval_shape(lambda k, t=tower: t.init(k, text, mask, False), KEY)
        noise = jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype("f4"), shapes)
        whole = tower.apply(noise, text, mask, False)["pooled"]
        for size in (6, 8):
            short = tower.apply(noise, text[:, :size], mask[:, :size], False)["pooled"]
            apart = np.abs(short - whole).max()
            if tower.padding_invariant:
                assert apart < 1e-5, (name, options)
            else:
                assert apart > 1e-2, (name, options)
        said.append(tower.padding_invariant)
    assert said.count(True) == 15 and said.count(False) == 14


@pytest.mark.slow
def test_a_run_learns_the_same(tmp_path):
    losses = []
    with run_tools.one_device():
        for sizes in ((), (6, 8, 10)):
            made = run_tools.tiny(log__every=1, data__text_buckets=sizes)
            run_tools.train(made, tmp_path / str(len(sizes)))
            rows = (tmp_path / str(len(sizes)) / "metrics.jsonl").read_text()
            rows = [json.loads(row) for row in rows.splitlines()]
            losses.append([row["train/loss"] for row in rows if "train/loss" in row])
    assert len(losses[0]) == 8
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


@pytest.mark.parametrize("sizes", [(3, 8), (8, 8), (8, 6), (6, 12), (6, 40), (6.5, 8)])
def test_wrong_sizes(sizes):
    with pytest.raises(UserError, match=r"^data.text_buckets="):
        buckets.check(sizes, 12)


@pytest.mark.thorough
def test_what_cannot_have_them(tmp_path):
    made = config.base(
        "loss=clip",
        options={"model.text=transformer": {"pool": "last", "causal": False}},
    )
    made.data.text_buckets = (8,)
    made.data.update(image_size=16, batch_size=8)
    made.model.image.update(variant="Ti/8", width=16, depth=1, heads=2)
    made.model.text.update(width=16, depth=1, heads=2)
    made.train.steps = 1
    with pytest.raises(UserError, match=r"text_buckets: .* the padding .*pool=last"):
        runs.prepare(made, tmp_path, True)
    made.model.text.pool = "mean"
    with made.unlocked():
        made.data.text_augment = config.base(
            "text_augment=paraphrase"
        ).data.text_augment
    with pytest.raises(UserError, match="leave one of the two out"):
        runs.prepare(made, tmp_path, True)
    bare = Lengths()
    bare.captions_of = None
    with pytest.raises(UserError, match="cannot give captions without"):
        buckets.make((4,), bare, TOKENIZER)
