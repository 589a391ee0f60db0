"""Configs: what the argument, the options and the flags can and cannot say."""

import pytest

from clipjax import config, config_check, config_parts, config_sections, registry
from clipjax.types import UserError


def test_sections_hold_exactly_the_chosen_options():
    made = config.base(None, options={"train": {"steps": 5}})
    assert made.loss.name == "clip"
    options = registry.options(registry.load("loss", "clip"))
    assert set(made.loss) == {"name", *options}
    assert set(made.optim) == {
        *("name", "lr", "b1", "b2", "eps", "weight_decay"),
        *config.SHARED["optim"],
        "schedule",
    }


def test_argument_beats_file_and_options_of_others_are_dropped():
    made = config.base(
        "optim=sgd",
        optim="adam",
        options={
            "train": {"steps": 5},
            "optim=sgd": {"lr": 0.5},
            "optim=adam": {"lr": 0.25},
        },
    )
    assert (made.optim.name, made.optim.lr) == ("sgd", 0.5)


@pytest.mark.parametrize(
    ("arg", "options", "message"),
    [
        ("los=clip", {}, "Did you mean 'loss'"),
        ("loss=clop", {}, "Did you mean 'clip'"),
        ("loss", {}, "write it as name=value"),
        (None, {"optim=adamw": {"lrr": 1.0}}, "Did you mean 'lr'"),
        (None, {"optim=sgd": {"lrr": 1.0}}, "Did you mean 'lr'"),
        (None, {"train": {"stepz": 1}}, "Did you mean 'steps'"),
        (None, {"train": {"steps": "5"}}, "must be int"),
        (None, {"trian": {"steps": 5}}, "no such section"),
        ("evals=retrieval+retrieval", {}, "given twice"),
        (
            None,
            {"evals.zerosot.data": {"split": "x"}},
            "no evaluator .zerosot.*Did you mean .zeroshot",
        ),
    ],
)
def test_mistakes_are_named(arg, options, message):
    with pytest.raises(UserError, match=message):
        config.base(arg, options=options)


def test_evaluation_source_follows_the_training_source_until_it_is_set():
    made = config.base("data=webdataset", options={"train": {"steps": 1}})
    made.data.train.path = "there"
    assert made.data.eval.path == "there"
    assert made.data.eval.split == "val"
    made.data.eval.path = "elsewhere"
    assert made.data.train.path == "there"
    assert config_check.flat(made)["data.eval.path"] == "elsewhere"


def test_evaluators_take_their_own_source():
    made = config.base("evals=retrieval+zeroshot@imagefolder")
    assert "data" not in made.evals.retrieval
    assert made.evals.zeroshot.data.name == "imagefolder"


def test_evaluators_keep_the_order_in_which_they_are_written():
    made = config.base(
        "evals=zeroshot@scenes+retrieval", options={"train": {"steps": 5}}
    )
    assert config_parts.labels(made.evals, "evals") == ("zeroshot", "retrieval")
    saved = config_check.to_dict(made)
    again = config_check.from_dict(saved)
    assert config_parts.labels(again.evals, "evals") == ("zeroshot", "retrieval")
    del saved["evals"]["order"]  # as runs before it were saved
    again = config_check.from_dict(saved)
    assert config_parts.labels(again.evals, "evals") == ("retrieval", "zeroshot")
    assert config_check.differences(saved, made) == {}
    made.evals.order = ("retrieval", "zeroshoot")
    with pytest.raises(UserError, match="evals.order=.*name some of retrieval, zero"):
        config_check.validate(made)
    assert "order" not in config.base("evals=zeroshot@scenes").evals
    with pytest.raises(UserError, match="evals=a.order: 'order' is a key beside"):
        config.base("evals=a.order")


def test_unset_optional_values_can_be_overridden():
    made = config.base(None)
    key = next(
        key
        for key, option in registry.options(
            registry.load("text", "transformer")
        ).items()
        if option.default is None
    )
    assert made.model.text[key] is None
    made.model.text[key] = 3
    assert config_check.flat(made)[f"model.text.{key}"] == 3


def test_round_trip_through_json():
    made = config.base(None, options={"train": {"steps": 5}})
    again = config_check.from_dict(config_check.to_dict(made))
    assert config_check.flat(again) == config_check.flat(made)
    assert config_check.differences(config_check.to_dict(made), again) == {}


def test_keys_newer_than_a_saved_config_have_their_defaults():
    made = config.base(None, options={"train": {"steps": 5}})
    saved = config_check.to_dict(made)
    del saved["lora"], saved["data"]["label_set"], saved["model"]["image"]["pool"]
    again = config_check.from_dict(saved)
    assert config_check.flat(again) == config_check.flat(made)


@pytest.mark.parametrize("name", ["imagefolder", "tfds"])
def test_a_config_saved_before_class_names_keeps_the_folders_names(name):
    saved = config_check.to_dict(
        config.base(f"data={name}", options={"train": {"steps": 5}})
    )
    for section in saved["data"]["train"], saved["data"]["eval"]:
        assert section.pop("class_names") == "auto"
    again = config_check.from_dict(saved)
    assert again.data.train.class_names == again.data.eval.class_names == "raw"


def test_only_result_keys_count_as_differences():
    options = {"train": {"steps": 5}}
    old = config_check.to_dict(config.base(None, options=options))
    new = config.base(None, options=options)
    new.data.workers = 3
    new.log.every = 77
    new.evals.retrieval.block = 2
    assert config_check.differences(old, new) == {}
    new.optim.lr = 0.125
    new.train.steps = 9
    assert config_check.differences(old, new) == {
        "optim.lr": (old["optim"]["lr"], 0.125),
        "train.steps": (5, 9),
    }


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("train.steps", 0, "set one of the two"),
        ("train.epochs", 1.0, "set one of the two"),
        ("data.batch_size", 0, "at least 1"),
        ("data.unit", "images", "Did you mean 'image'"),
        ("train.ema", 1.0, "must be in"),
        ("mesh.data", 0, "mesh.data"),
        ("optim.no_decay", "(", "not a regular expression"),
        ("optim.groups", (("x", 1.0),), "is not of the form"),
    ],
)
def test_validation(path, value, message):
    made = config.base(None, options={"train": {"steps": 5}})
    section, _, key = path.partition(".")
    made[section][key] = value
    with pytest.raises(UserError, match=message):
        config_check.validate(made)


def test_a_component_chosen_by_flag_is_refused_with_the_right_form():
    made = config.base(None, options={"train": {"steps": 5}})
    chosen = config.base(None, options={"train": {"steps": 5}})
    made.optim.name = "sgd"
    with pytest.raises(UserError, match=r"--config FILE.py:optim=sgd"):
        config_check.validate(made, chosen)


def test_own_words_of_a_file():
    assert config.word("size=cpu", "size", ("gpu", "cpu")) == "cpu"
    assert config.word(None, "size", ("gpu", "cpu")) == "gpu"
    with pytest.raises(UserError, match="Did you mean 'cpu'"):
        config.word("size=cpus", "size", ("gpu", "cpu"))
    config.base("size=cpu", words=["size"])


@pytest.mark.parametrize("family", registry.FAMILIES)
def test_every_component_declares_typed_options_with_defaults(family):
    names = registry.names(family)
    assert names
    for name in names:
        for key, option in registry.options(registry.load(family, name)).items():
            config_sections.field(
                option.default, option.annotation, f"{family}.{name}.{key}"
            )


def test_dotted_paths_load_foreign_modules():
    assert registry.load("loss", "clipjax.losses.clip") is registry.load("loss", "clip")
    with pytest.raises(UserError, match="cannot load it"):
        registry.load("loss", "no.such.module")


def test_losses_add_up():
    made = config.base("loss=clip+cyclip", options={"loss=cyclip": {"in_modal": 0.5}})
    assert list(made.loss) == ["clip", "cyclip"]
    assert made.loss.cyclip.in_modal == 0.5 and made.loss.cyclip.weight == 1.0
    with made.unlocked():
        made.loss.cyclip.weight = -1.0
        made.train.steps = 5
    with pytest.raises(UserError, match="loss.cyclip.weight=-1.0"):
        config_check.validate(made)
    with pytest.raises(UserError, match="given twice"):
        config.base("loss=clip+clip")
    with pytest.raises(UserError, match="unknown loss 'clop'.*'clip'"):
        config.base("loss=clip+clop")


@pytest.mark.parametrize("model", ["memory_network", "classifier"])
def test_a_loss_asks_no_model_for_options_that_it_lacks(model):
    made = config.base(f"model={model},loss=siglip")
    assert "logit_bias_init" not in made.model


@pytest.mark.parametrize(
    ("loss", "limit"),
    [
        ("clip", 100.0),
        ("siglip", 0.0),
        ("siglip+clip", 100.0),
        ("siglip+vicreg", 100.0),
    ],
)
def test_the_limit_of_the_temperature_is_the_losss(loss, limit):
    assert config.base(f"loss={loss}").train.max_logit_scale == limit
    own = {"train": {"max_logit_scale": 50.0}}
    made = config.base(f"loss={loss}", options=own)
    assert made.train.max_logit_scale == 50.0
    made.train.max_logit_scale = 0.5
    made.train.steps = 1
    with pytest.raises(UserError, match="max_logit_scale=0.5: must be at least 1, or"):
        config_check.validate(made)


def test_a_loss_suits_the_model_unless_the_file_does():
    assert config.base("loss=clip").model.logit_bias_init is None
    made = config.base("loss=siglip").model
    assert (made.logit_scale_init, made.logit_bias_init) == (10.0, -10.0)
    own = {"model=two_tower": {"logit_bias_init": -5.0}}
    made = config.base("loss=siglip", options=own).model
    assert (made.logit_scale_init, made.logit_bias_init) == (10.0, -5.0)
