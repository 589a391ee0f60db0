"""--help of one thing, and that every option says what it means."""

import pytest

from clipjax import config_keys, export, help_pages, prepare, registry, train
from clipjax.types import UserError

COMPONENTS = [
    (family, name) for family in registry.FAMILIES for name in registry.names(family)
]


@pytest.mark.parametrize(("family", "name"), COMPONENTS)
def test_every_option_has_a_meaning(family, name):
    factory = registry.load(family, name)
    said = help_pages.meanings(factory)
    assert list(said) == list(registry.options(factory))
    for key, meaning in said.items():
        assert len(meaning) > 3 and not meaning.startswith(f"{key}:")
    page = help_pages.page(f"{family}={name}")
    assert page.startswith(f"{family}={name}: ")
    assert all(f"  {key} = " in page or f"  {key}\n" in page for key in said)


def test_every_shared_key_has_a_meaning():
    for section, keys in config_keys.KEYS.items():
        for name, key in keys.items():
            assert len(key.meaning) > 5
            address = f"{section}.{name}" if section else name
            assert address in help_pages.page(address)
            if section:
                assert f"{address} = " in help_pages.page(section)


def make(*, first: int = 1, second: int = 2, third: str = "x", fourth: int = 0):
    """A summary: of several words.

    Args:
      first, second: one meaning
        in two lines.
      third: "a: b", or another.

    fourth: no entry, as it is not indented.
    """


def test_the_meaning_is_the_docstrings():
    assert help_pages.meanings(make) == {
        "first": "one meaning in two lines.",
        "second": "one meaning in two lines.",
        "third": '"a: b", or another.',
    }


@pytest.mark.parametrize(
    ("topic", "holds"),
    [
        ("loss=sogclr", ["--config.loss.KEY", "temperature = 0.07 (float)"]),
        ("optim=adamw", ["lr = 0.0005 (float)", "peak learning rate"]),
        ("loss=clip+cyclip", ["loss=clip: ", "loss=cyclip: ", "in_modal = "]),
        ("model.image=vit", ["image=vit: ", "--config.model.image.KEY"]),
        ("data=captions", ["--config.data.train.KEY", "evaluate --data.KEY"]),
        ("data.eval=captions", ["eval_data=captions", "--config.data.eval.KEY"]),
        ("train.steps", ["--config.train.steps = 0 (int)", "length of the run"]),
        ("--config.optim.lr=3", ["--config.optim.lr", "optim=sgd", "lr = 0.01"]),
        ("model.image.variant", ["image=vit", "'B/16' (str)", "image=resnet"]),
        ("image.variant", ["image=vit", "'B/16' (str)"]),
        ("loss.sogclr.gamma", ["loss=sogclr", "gamma = 0.8"]),
        ("data.train.path", ["data=webdataset", "gs://"]),
        ("evals.retrieval.ks", ["evals=retrieval"]),
        ("optim", ["optim.clip_norm = 1.0", "optim=NAME chooses: adabelief", "sam+"]),
        ("model.image", ["image=NAME chooses: convnext"]),
        ("seed", ["--config.seed = 0 (int)"]),
    ],
)
def test_a_page(topic, holds):
    page = help_pages.page(topic)
    for words in holds:
        assert words in page
    assert max(map(len, page.splitlines())) <= 80


@pytest.mark.parametrize(
    ("topic", "said"),
    [
        ("loss=sogclrr", "Did you mean 'sogclr'"),
        ("optim.learning_rate", "Did you mean optim.lr?"),
        ("trian", "Did you mean 'train'"),
        ("loss.clip.gamma", "there is no such section, component or key"),
        ("zzz", "there is no such section, component or key"),
        ("=", "there is no such section, component or key"),
        ("loss=", "loss=NAME chooses"),
    ],
)
def test_what_names_nothing(topic, said):
    try:
        told = help_pages.page(topic)
    except UserError as error:
        told = str(error)
    assert said in told


@pytest.mark.parametrize("command", [train, export, prepare])
def test_every_command_has_the_pages(command, capsys):
    assert command.main(["command", "--help", "loss=sogclr"]) == 0
    assert capsys.readouterr().out.startswith("loss=sogclr: ")
    assert command.main(["command", "--help"]) == 0
    told = capsys.readouterr().out
    assert "--help loss=sogclr" in told and "temperature" not in told
