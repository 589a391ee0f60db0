"""The addresses that users mean when they write others."""

from typing import cast

import pytest

from clipjax import commandline, config, config_addresses, config_check, registry
from clipjax.engine import assemble
from clipjax.types import LossSpec, Tokenizer, UserError


@pytest.fixture(scope="module")
def leaves():
    words = "evals=retrieval+zeroshot@scenes,augment=crop"
    return config_check.flat(config.base(words))


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("optim.learning_rate", "optim.lr"),
        ("learning_rate", "optim.lr"),
        ("lr", "optim.lr"),
        ("optim.adamw.lr", "optim.lr"),
        ("optimizer.lr", "optim.lr"),
        ("batch_size", "data.batch_size"),
        ("train.batch_size", "data.batch_size"),
        ("epochs", "train.epochs"),
        ("num_epochs", "train.epochs"),
        ("max_steps", "train.steps"),
        ("train.stepz", "train.steps"),
        ("model.embed_size", "model.embed_dim"),
        ("image.variant", "model.image.variant"),
        ("model.image.varient", "model.image.variant"),
        ("model.vision.layers", "model.image.depth"),
        ("depth", "model.image.depth or --config.model.text.depth"),
        ("data.num_workers", "data.workers"),
        ("optim.warmup_steps", "optim.schedule.warmup"),
        ("train.save_every", "checkpoint.every"),
        ("grad_clip", "optim.clip_norm"),
        ("context_length", "data.tokenizer.context_length"),
        ("augment.scale", "data.augment.scale"),
        ("train.Learning-Rate", "optim.lr"),
    ],
)
def test_the_address_that_is_meant(leaves, key, meant):
    hint = config_addresses.nearest(key, leaves)
    assert hint == f" Did you mean --config.{meant}?"


@pytest.mark.parametrize("key", ["zzz", "optim.zzz", "bf16", "", ".", "a.b.c"])
def test_nothing_is_guessed(leaves, key):
    assert config_addresses.nearest(key, leaves) == ""


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        (
            "--config.optim.momentum=0.9",
            "optim=adafactor, optim=lars, .* and optim=sm3, and this config has",
        ),
        ("--config.data.path=x", "data=arrayrecord, .* and .*FILE.py:data="),
        ("--config.optim.zzz=1", r"unknown config key 'optim.zzz'\.$"),
        ("--lr=1", r"unknown flag '--lr=1'\. Did you mean --config.optim.lr\?"),
        ("--optim.lr=1", r"Did you mean --config.optim.lr\?"),
        ("--work_dir=x", "Did you mean 'workdir'"),
    ],
)
def test_a_flag_is_told_with_what_it_needs(flag, said):
    with pytest.raises(UserError, match=said):
        commandline.parse(["train", flag], config.base(""), workdir="")


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        ("image=vit", "model.image.variant", "B16"),
        ("image=vit", "model.image.heads", 7),
        ("image=vit", "model.image.pool", "max"),
        ("image=resnet", "model.image.variant", "51"),
        ("text=bert", "model.text.activation", "x"),
        ("text=transformer", "model.text.dropout", 1.5),
        ("tokenizer=char", "data.tokenizer.characters", "aa"),
        ("augment=crop", "data.augment.scale", (2.0, 3.0)),
        ("augment=crop+blur", "data.augment.crop.scale", (2.0, 3.0)),
        ("augment=crop+blur", "data.augment.blur.p", 3.0),
        ("preprocess=squash", "data.preprocess.interpolation", "x"),
        ("loss=sogclr", "loss.margin", 0.0),
        ("loss=clip+sogclr", "loss.sogclr.margin", 0.0),
    ],
)
def test_a_value_is_told_by_its_address(words, key, value):
    made = config.base(words)
    place = made
    *sections, name = key.split(".")
    for section in sections:
        place = place[section]
    place[name] = value
    with pytest.raises(UserError) as caught:
        if key.startswith("model"):
            assemble.model(made, cast(Tokenizer, _Vocabulary()))
        elif "tokenizer" in key:
            config.create("tokenizer", made.data.tokenizer, lambda: ["a"], None)
        elif "augment" in key:
            assemble.augment(made)
        elif "preprocess" in key:
            assemble.preprocess(made)
        else:
            assemble.loss(made, LossSpec(8, 8, 4, 4, 2, 2), "image_embed")
    assert str(caught.value).startswith(f"{key}=")


class _Vocabulary:
    vocab_size, context_length = 100, 8


def test_every_family_has_a_section_that_a_config_has():
    made = config.base("")
    assert set(config_addresses.SECTIONS) == set(registry.FAMILIES)
    for family, section in config_addresses.SECTIONS.items():
        assert config_addresses.family(section) == family
        assert config_addresses.argument_word(section) == family
        if family not in ("evals", "text_augment"):
            assert f"{section}.name" in config_check.flat(made)
    assert config_addresses.argument_word("data.eval") == "eval_data"
    assert config_addresses.argument_word("loss.clip") == "loss"
    assert config_addresses.argument_word("data.augment.crop") == "augment"
    assert config_addresses.argument_word("evals.zeroshot.data") == "evals"
