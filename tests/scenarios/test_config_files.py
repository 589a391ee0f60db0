"""Config files: what does not run, and what no component reads, is one line."""

import pytest

from clipjax import commandline, config, config_check, config_parts
from clipjax.types import UserError

GOOD = """
from clipjax.config import base
def get_config(arg=None):
    config = base(arg, options={"train": {"steps": 5}})
    config.unlock()
    EDIT
    return config
"""
# What a file holds -> what is said of it, its line among it.
FILES = {
    "does not parse": ("x = 1\ndef get_config(:\n", "line 2: SyntaxError: invalid"),
    "is no text": (b"\xff\xfe\x00x", "SyntaxError|ValueError|null bytes"),
    "raises": ("\n\n1 / 0\n", "line 3: ZeroDivisionError: division by zero"),
    "exits": ("raise SystemExit(7)", "line 1: SystemExit: 7"),
    "imports what is absent": ("import nothing_here", "line 1: ModuleNotFoundError"),
    "recurs": ("def f(): f()\nf()", "line 1: RecursionError"),
    "is empty": ("", "defines no get_config"),
    "has another name": ("def get_conf(arg): pass", "defines no get_config"),
    "is no function": ("get_config = 3", "cannot be called with one argument"),
    "takes nothing": ("def get_config(): pass", "cannot be called with one argument"),
    "needs more": ("def get_config(a, b): pass", "cannot be called with one argument"),
    "raises inside": ("def get_config(arg):\n  return {}[1]", "line 2: KeyError: 1"),
    "returns nothing": ("def get_config(arg): pass", "NoneType: make it by"),
    "is async": ("async def get_config(arg): pass", "get_config of .* is async"),
    "ends it": (
        "class Stop(BaseException): pass\ndef get_config(arg): raise Stop('x')",
        "line 2: Stop: x",
    ),
    "raises what cannot be told": (
        "class Bad(Exception):\n  def __str__(self): return 1 / 0\nraise Bad",
        "line 3: Bad",
    ),
    "returns a dict": ("def get_config(arg): return {}", "dict: make it by"),
}
EDITS = {
    "config.data.train.path = 'x'": "'data.train.path': data.train.*no such key",
    "config.optim.lrr = 1.0": "Did you mean 'lr'",
    "config.steps = 1": "unknown config key 'steps'",
    "config.train.stepz = 1": "Did you mean 'steps'",
    "config.new = 1": "unknown config key 'new'",
    "config.loss.weight = 2.0": "unknown config key 'loss.weight'",
    "config.evals.retrieval.colour = 1": "unknown config key 'evals.retrieval.colour'",
    "config.data.train.name = 'imagefolder'": "'data.train.eval_size'.*imagefolder",
    "data = config.data.train; del data.name; data.name = 3": "name=3: must name",
    "config.data.train.name = 'scens'": "unknown data 'scens'.*'scenes'",
    "del config.train.steps": "the config lacks train.steps",
    "del config.data": "the config lacks data",
    "del config.data; config.data = 3": "data=3: must be a section",
    "del config.optim.schedule": "the config lacks optim.schedule",
    "del config.model.text; config.model.text = 3": "model.text=3: must be a section",
    "config.evals.order = 1": "evals.order=1: name some of retrieval",
    "del config.train.steps; config.train.steps = 'x'": "train.steps='x': must be int",
    "del config.train.ema; config.train.ema = 10**400": "train.ema=.*too large",
    "del config.seed; config.seed = None": "seed=None: must be int",
    "config[3] = 1": "the config has a key that is not text",
    "config.evals[3] = 1": "evals has a key that is not text",
    "config.evals[''] = config.evals.retrieval": "evals has a key that is ''",
    "config.evals['a/b'] = config.evals.retrieval": "evals has a key that is 'a/b'",
    "from ml_collections import FrozenConfigDict as F; config = F(config)": (
        "the config is FrozenConfigDict: make it by"
    ),
    "class R:\n        __repr__ = lambda self: 1 / 0\n    del config.seed; "
    "config.seed = R()": "seed=R too large to show|seed=R that cannot be shown",
    "config.init_from = 'a\\0b'": "init_from.*cannot be saved as JSON",
}


def write(path, content):
    content = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_is_no_config_is_one_line(tmp_path, what):
    content, said = FILES[what]
    with pytest.raises(UserError, match=said) as caught:
        commandline.load_file(write(tmp_path / "c.py", content))
    assert "c.py" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"loss": 3}, "loss=3: must be str"),
        ({"options": {"train": None}}, "options: {'train': None} is not a section's"),
        ({"options": {3: {"steps": 1}}}, "options: {3: .* is not a section's name"),
        ({"options": {"train": {3: 1}}}, "unknown key of train 3"),
    ],
)
def test_what_base_is_given_in_other_forms(given, said):
    with pytest.raises(UserError, match=said):
        config.base(None, **given)


def test_a_file_may_define_dataclasses(tmp_path):
    """They look for their module by its name."""
    content = f"""
from __future__ import annotations
import dataclasses
@dataclasses.dataclass
class Size:
    width: int = 32
{GOOD.replace("EDIT", "config.train.steps = Size().width")}"""
    file = write(tmp_path / "c.py", content)
    assert commandline.load_file(file).train.steps == 32


@pytest.mark.parametrize("edit", EDITS)
def test_a_config_holds_what_its_components_read_and_nothing_else(tmp_path, edit):
    file = write(tmp_path / "c.py", GOOD.replace("EDIT", edit))
    with pytest.raises(UserError, match=EDITS[edit]) as caught:
        commandline.load_file(file)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 800
    commandline.load_file(write(tmp_path / "c.py", GOOD.replace("EDIT", "pass")))


@pytest.mark.parametrize("arg", ["", "loss=clip+cyclip", "augment=crop+blur"])
@pytest.mark.parametrize("more", ["", "evals=zeroshot@scenes+retrieval", "evals=none"])
def test_what_base_makes_is_whole(arg, more):
    made = config.base(f"{arg},{more}")
    config_parts.check(made)
    config_parts.check(config_check.from_dict(config_check.to_dict(made)))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("train.steps", 2**31, "train.steps=2147483648: must be at most 2147483647"),
        ("data.image_size", 10**6, "data.image_size=1000000: must be at most 16384"),
        ("model.embed_dim", 10**7, "model.embed_dim=10000000: must be at most 65536"),
        ("model.image.depth", 100000, "model.image.depth=100000: must be at most 256"),
        ("model.text.width", -1, "model.text.width=-1: must be at least 1"),
        ("data.threads", 10**6, "data.threads=1000000: must be at most 1024"),
        ("data.timeout", 1e300, r"data.timeout=1e\+300: must be at most 9.22"),
        (
            "data.batch_size",
            "10**5000",
            "int too large to show: must be within 64 bits",
        ),
        ("data.tokenizer.vocab_size", 2**31 - 1, "must be at most 1048576"),
        ("data.train.size", -1, "data.train.size=-1: must be at least 0"),
        ("optim.lr", float("nan"), "optim.lr=nan: must be a finite number"),
        ("lora.alpha", 1e308, r"lora.alpha=1e\+308: must be at most 3.4e\+38"),
        (
            "optim.groups",
            ((".", 1e300, 1.0),),
            r"optim.groups=1e\+300: must be at most",
        ),
        ("model.mean", (0.5, float("inf"), 0.5), "model.mean=inf: must be a finite"),
        ("evals.retrieval.ks", (1, 0), "evals.retrieval.ks=0: must be at least 1"),
        ("model.image.dropout", 1.5, "model.image.dropout=1.5: must be at most 1"),
    ],
)
def test_numbers_beyond_what_can_work(path, value, said):
    made = config.base(None, options={"train": {"steps": 5}})
    section, _, key = path.rpartition(".")
    place = made
    for name in section.split("."):
        place = place[name]
    place[key] = 10**5000 if value == "10**5000" else value
    with pytest.raises(UserError, match=said):
        config_check.validate(made)


def test_steps_that_are_traced_one_by_one_are_few():
    made = config.base("model=memory_network", options={"train": {"steps": 5}})
    made.model.feedback_steps = 65
    with pytest.raises(UserError, match="feedback_steps=65: must be at most 64"):
        config_check.validate(made)


@pytest.mark.parametrize("path", ["optim.no_decay", "lora.on"])
@pytest.mark.parametrize("pattern", ["(" * 5000 + ")" * 5000, "a{99999999999}", "["])
def test_patterns_that_python_cannot_read(path, pattern):
    made = config.base(None, options={"train": {"steps": 5}})
    section, _, key = path.partition(".")
    made[section][key] = pattern
    with pytest.raises(
        UserError, match=f"{path}: .* is not a regular expression"
    ) as told:
        config_check.validate(made)
    assert len(str(told.value)) < 500


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../../x", "write a module as package.module"),
        (".x", "write a module as package.module"),
        ("no.such.module", "No module named 'no'"),
        ("os.path", "needs a function `make`"),
        ("parts.exiting_component", "exiting_component.py, line 1: SystemExit: 0"),
        ("parts.broken_component", "broken_component.py, line 3: ZeroDivisionError"),
    ],
)
def test_components_that_cannot_be_loaded(name, said):
    with pytest.raises(UserError, match=f"loss={name}: cannot load it: .*{said}"):
        config.base(f"loss={name}")
