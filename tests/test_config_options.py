"""Options of a config file: one address each, and the keys of earlier versions."""

import pytest

from clipjax import config, config_check, registry
from clipjax.config_addresses import SECTIONS
from clipjax.types import UserError


def values(*args, **kwargs):
    return config_check.flat(config.base(*args, **kwargs))


def changed(arg, options, **chosen):
    """Address -> value of what options change."""
    before, after = values(arg, **chosen), values(arg, options=options, **chosen)
    return {key: after[key] for key in after if after[key] != before[key]}


@pytest.mark.parametrize(
    ("key", "given", "arg"),
    [
        ("model=two_tower", {"embed_dim": 24}, ""),
        ("model.image=vit", {"variant": "S/8"}, ""),
        ("model.text=transformer", {"depth": 3}, ""),
        ("data.train=captions", {"path": "there"}, "data=captions"),
        ("data.eval=captions", {"path": "there"}, "data=captions"),
        ("data.eval=scenes", {"resolution": 17}, "data=captions,eval_data=scenes"),
        ("evals.zeroshot.data=scenes", {"size": 8}, "evals=zeroshot@scenes"),
        ("data.train", {"split": "other"}, ""),
        ("data.eval", {"split": "other"}, "eval_data=captions"),
        ("evals.zeroshot.data", {"split": "other"}, "evals=zeroshot@scenes"),
        ("data.tokenizer=words", {"min_count": 7}, ""),
        ("data.preprocess=squash", {"exif": False}, "preprocess=squash"),
        ("data.augment=crop", {"flip": 0.25}, "augment=crop"),
        ("data.text_augment=word_dropout", {"p": 0.75}, "text_augment=word_dropout"),
        ("loss=clip", {"label_smoothing": 0.25}, ""),
        ("optim=adamw", {"lr": 0.25}, ""),
        ("optim.schedule=cosine", {"floor": 0.25}, ""),
        ("optim", {"clip_norm": 0.25}, ""),
        ("train", {"steps": 3}, ""),
    ],
)
def test_a_key_has_the_address_that_its_flag_has(key, given, arg):
    found = changed(arg, {key: given})
    section = key.partition("=")[0]
    expected = {f"{section}.{name}": value for name, value in given.items()}
    if key == "data.train=captions":  # evaluation follows
        expected["data.eval.path"] = "there"
    assert found == expected
    # Checked anyway, and without effect, if another component is chosen.
    family = {place: word for word, place in SECTIONS.items()}.get(section)
    if "=" in key and family:
        name = key.partition("=")[2]
        others = [n for n in registry.names(family) if n not in (name, "classifier")]
        if family == "text_augment":
            others = ["none"]
        assert not changed(f"{family}={others[0]}", {key: given})
        with pytest.raises(UserError, match=f"unknown option of {key}: 'xyz'"):
            config.base(f"{family}={others[0]}", options={key: {"xyz": 1}})
        if family != "text_augment":
            wrong = {next(iter(given)): {}}
            with pytest.raises(UserError, match=f"{section}.{next(iter(given))}="):
                config.base(f"{family}={others[0]}", options={key: wrong})


def test_one_of_several_has_its_label_in_the_flag():
    options = {"loss=cyclip": {"in_modal": 0.5}, "data.augment=crop": {"flip": 0.5}}
    words = "loss=clip+cyclip,augment=crop+blur"
    assert changed(words, options) == {
        "loss.cyclip.in_modal": 0.5,
        "data.augment.crop.flip": 0.5,
    }


def test_keys_outside_sections_stand_alone():
    assert changed("", {"seed": 3, "init_from": "runs/x"}) == {
        "seed": 3,
        "init_from": "runs/x",
    }


def test_a_split_of_one_source_counts_with_that_source_alone():
    options = {"data.eval=scenes": {"split": "heldout"}}
    assert changed("", options) == {"data.eval.split": "heldout"}
    assert not changed("data=captions", options)
    both = {"data.eval": {"split": "test"}, **options}
    assert values("", options=both)["data.eval.split"] == "heldout"
    assert values("data=captions", options=both)["data.eval.split"] == "test"


OLD = {
    "optim.adamw": ("optim=adamw", {"lr": 0.25}),
    "image.vit": ("model.image=vit", {"width": 96}),
    "model.two_tower": ("model=two_tower", {"embed_dim": 24}),
    "tokenizer.words": ("data.tokenizer=words", {"min_count": 7}),
    "schedule.cosine": ("optim.schedule=cosine", {"floor": 0.25}),
    "augment.crop": ("data.augment=crop", {"flip": 0.25}),
    "evals.retrieval": ("evals=retrieval", {"ks": (2,)}),
    "data.scenes": ("data.train=scenes", {"resolution": 17}),
    "data.eval": ("data.eval=scenes", {"resolution": 17}),
    "loss.clipjax.losses.clip": ("loss=clipjax.losses.clip", {"block": 3}),
}


@pytest.mark.parametrize("old", OLD)
def test_an_earlier_key_counts_and_one_line_names_the_new(old, caplog):
    new, given = OLD[old]
    words = "augment=crop"
    if old.startswith("loss"):
        words += ",loss=clipjax.losses.clip"
    assert values(words, options={new: given}) and not caplog.messages
    expected = changed(words, {new: given})
    assert expected and changed(words, {old: given}) == expected
    (line,) = caplog.messages
    assert f'write "{old}" as "{new}"' in line and "\n" not in line


def test_earlier_options_of_a_source_count_wherever_it_is_chosen(caplog):
    options = {"data.scenes": {"resolution": 17}, "train": {"steps": 1}}
    words = "data=captions,eval_data=scenes,evals=zeroshot@scenes"
    found = values(words, options=options)
    assert found["data.eval.resolution"] == found["evals.zeroshot.data.resolution"]
    assert found["data.eval.resolution"] == 17
    (line,) = caplog.messages
    assert '"data.eval=NAME", "evals.LABEL.data=NAME"' in line
    # Several in one line.
    caplog.clear()
    config.base("", options={"optim.sgd": {"lr": 1.0}, "image.vit": {"width": 96}})
    (line,) = caplog.messages
    assert '"optim=sgd", "image.vit" as "model.image=vit"' in line
    with pytest.raises(UserError, match="unknown option of optim=sgd: 'lrr'.*'lr'"):
        config.base("", options={"optim.sgd": {"lrr": 1.0}})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image=vit": {}}, 'Did you mean "model.image=vit"'),
        ({"schedule": {}}, 'Did you mean "optim.schedule=NAME"'),
        ({"data=webdataset": {}}, 'Did you mean "data.train=webdataset"'),
        ({"model.imag=vit": {}}, "Did you mean 'model.image=vit'"),
        ({"optimizer=adamw": {}}, "Did you mean 'optim=adamw'"),
        ({"optim=adamww": {}}, "unknown optim 'adamww'.*Did you mean 'adamw'"),
        ({"trian": {}}, "no such section. Did you mean 'train'"),
        ({"model.image": {"variant": "S/8"}}, 'variant belongs.*"model.image=vit"'),
        ({"data.train": {"path": "x"}}, 'path belongs.*"data.train=scenes"'),
        ({"optim": {"lr": 1.0}}, "unknown key of optim 'lr'.*\"optim=adamw\""),
        ({"evals.zerosht.data=scenes": {}}, "no evaluator 'zerosht'.*'zeroshot'"),
        ({"optim=": {}}, "no such section"),
        ({"=": {}}, "no such section"),
        ({"": {"sead": 1}}, "unknown key of config 'sead'. Did you mean 'seed'"),
        ({"sead": 1}, "options: {'sead': 1} is not"),
        ({"data.eval": {"split": 3}}, "data.eval.split=3: must be str"),
    ],
)
def test_what_is_no_address_is_told_with_the_nearest(options, said):
    with pytest.raises(UserError, match=said) as caught:
        config.base("", options=options)
    assert "\n" not in str(caught.value)
