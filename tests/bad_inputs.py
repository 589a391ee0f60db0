"""Random bad inputs of the commands: each is wrong by the way in which it is made.

`case(rng, folder, run)` writes what it needs into an empty folder and returns the
command with its arguments. run: a trained run, to be copied and damaged.
"""

import json
import pathlib
import shutil
import string

from config_tiny import get_config
from source_tools import jpeg, write_tar

from clipjax import config_check

HERE = pathlib.Path(__file__).parent
TINY = str(HERE / "config_tiny.py")
SOURCE = (HERE / "config_tiny.py").read_text()
LETTERS = string.ascii_lowercase + "äß漢 ./\\'\"%*?[]{}()#&;~$-"
LEAVES = config_check.flat(get_config())
# Values that no key of a type can have.
WRONG = {
    int: ("1.5", "abc", "", "nan", str(2**70), str(-(2**40)), "9" * 5000, "(1, 2)"),
    float: ("nan", "inf", "-inf", "1e999", "abc", "", "1,5", "--1"),
    bool: ("maybe", "2", "yes please", "0.5"),
    list: ("(", "abc(", "{1: 2}", "(" * 3000, "1e400", "lambda: 0", "(1, 2"),
}
# Keys whose text is one of a few.
CHOICES = [
    *("data.unit", "data.on_broken", "checkpoint.best_mode", "checkpoint.best"),
    *("model.image.variant", "model.image.pool", "model.image.positions"),
    *("model.image.activation", "model.text.variant", "model.text.pool"),
    *("model.text.activation", "model.precision", "model.image_head", "init_from"),
    *("loss.same_image", "data.train.split", "data.eval.split", "init_image_from"),
]
PYTHON = ("3", "{}", "None", "[1]", "'text'", "object()", "lambda: 0", "get_config")
RAISED = (
    "1 / 0",
    "{}['x']",
    "import nothing_of_this_name",
    "from clipjax import nothing",
    "raise SystemExit(0)",
    "raise ValueError('one\\ntwo')",
    "open('nothing/of/this/name')",
    "undefined",
    "b'\\xff'.decode()",
    "(lambda f: f(f))(lambda f: f(f))",
    "'x' + 1",
    "assert False",
)


def text(rng, least=1, most=12):
    return "".join(rng.choices(LETTERS, k=rng.randint(least, most)))


def junk(rng, size=300):
    """Bytes that are no text, or text in another encoding."""
    word = "".join(rng.choices(string.printable + "äöü漢字", k=rng.randint(1, size)))
    how = rng.randrange(4)
    if how == 0:
        return rng.randbytes(rng.randint(1, size))
    return word.encode(("utf-8", "utf-16", "utf-32")[how - 1])


def nested(rng):
    depth = rng.choice([10, 1000, 100_000])
    return "[" * depth + "]" * depth


def dry(config, *flags):
    return "train", [f"--config={config}", "--dry_run", *flags]


# Config files


def file_case(rng, folder, run):
    """A config file that is cut, raises, has another encoding or returns no config."""
    file, how = folder / "c.py", rng.randrange(6)
    start = SOURCE.index("def get_config")
    if how == 0:
        content = SOURCE[: rng.randrange(SOURCE.index('"log"'))].encode()
    elif how == 1:
        content = SOURCE.replace("return base(", f"{rng.choice(RAISED)}\n    base(")
        content = content.encode()
    elif how == 2:
        content = f"{SOURCE[:start]}{rng.choice(RAISED)}\n{SOURCE[start:]}".encode()
    elif how == 3:
        value = rng.choice(PYTHON)
        content = f"def get_config(arg=None):\n    return {value}\n".encode()
    elif how == 4:
        content = SOURCE.encode(rng.choice(["utf-16", "utf-32"]))
    else:
        content = junk(rng)
    file.write_bytes(content)
    return dry(file)


def edit_case(rng, folder, run):
    """A config with a key too many, one too few, or a value of another type."""
    path, how = rng.choice(sorted(LEAVES)), rng.randrange(4)
    *parts, last = path.split(".")
    section = "".join(f"[{part!r}]" for part in parts)
    if how == 0:
        edit = f"config{section}[{text(rng).replace('.', '_')!r}] = {rng.randint(0, 9)}"
    elif how == 1:
        edit = f"del config{section}[{last!r}]"
    elif how == 2 and parts and parts[0] != "evals":
        edit = f"del config{''.join(f'[{p!r}]' for p in parts)}"
    else:
        value = rng.choice(["{'a': 1}", "object()", "1j", "b'x'", "{1, 2}"])
        edit = f"del config{section}[{last!r}]; config{section}[{last!r}] = {value}"
    content = SOURCE.replace("return base(", "config = base(")
    content += f"    config.unlock()\n    {edit}\n    return config\n"
    (folder / "c.py").write_text(content, encoding="utf-8")
    return dry(folder / "c.py")


# Command lines


def value_case(rng, folder, run):
    """A dotted flag with a value that its key cannot have, or of no key."""
    known = [path for path, value in LEAVES.items() if type(value) in WRONG]
    if rng.random() < 0.25:
        return dry(TINY, f"--config.{rng.choice(CHOICES)}={text(rng)}zz")
    if rng.random() < 0.2:
        path = rng.choice(sorted(LEAVES))
        return dry(TINY, f"--config.{path}{rng.choice('xz.')}={rng.randint(0, 9)}")
    path = rng.choice(known)
    value = rng.choice(WRONG[type(LEAVES[path])])
    return dry(TINY, f"--config.{path}={value}")


def size_case(rng, folder, run):
    """A size, count or rate beyond what can work."""
    path, values = rng.choice(
        [
            ("data.image_size", (0, -1, 10**6, 7)),
            ("data.batch_size", (0, -8, 2**31, 2**24)),
            ("data.threads", (10**6, -1)),
            ("data.workers", (10**6, -1)),
            ("data.timeout", (1e300, -1.0)),
            ("model.embed_dim", (0, -1, 10**7)),
            ("model.image.depth", (100_000, 0, -3)),
            ("model.image.width", (10**7, 0, -1, 33)),
            ("model.text.heads", (0, 7, -2, 10**6)),
            ("model.text.width", (10**7, 31)),
            ("train.steps", (2**31, -1, 0)),
            ("train.micro_batches", (0, 3, 10**6)),
            ("data.tokenizer.context_length", (0, 10**9, -1)),
            ("data.tokenizer.vocab_size", (0, -1)),
            ("data.train.size", (0, -1)),
            ("data.train.resolution", (0, -1, 10**6)),
            ("evals.retrieval.ks", ("(0,)", "(-1,)", "()", "('a',)")),
            ("optim.lr", (-1.0,)),
            ("optim.layer_decay", (0.0, 2.0, -1.0)),
            ("train.ema", (1.0, -0.5)),
            ("lora.rank", (-1, 10**7)),
        ]
    )
    return dry(TINY, f"--config.{path}={rng.choice(values)}")


def argument_case(rng, folder, run):
    """What stands after the colon names nothing that there is."""
    words = ("loss", "optim", "image", "text", "data", "tokenizer", "augment", "evals")
    word = rng.choice(words)
    names = [
        "../../x",
        "os.path",
        ".",
        "..",
        "clip+",
        "+clip",
        "a.b.c",
        text(rng) + "z",
    ]
    how = rng.randrange(4)
    if how == 0:
        argument = f"{text(rng)}z={rng.choice(names)}"
    elif how == 1:
        argument = text(rng).replace("=", "").replace(",", "") + "z"
    else:
        argument = f"{word}={rng.choice(names)}"
    return dry(f"{TINY}:{argument}")


def flag_case(rng, folder, run):
    command = rng.choice(["train", "evaluate", "export", "prepare"])
    flags = {
        "train": [f"--config={TINY}", "--dry_run"],
        "evaluate": [f"--workdir={run}"],
        "export": [f"--workdir={run}", "--format=hf", f"--out={folder / 'out'}"],
        "prepare": [rng.choice(["convert", "inspect", "verify", "tiny"])],
    }[command]
    wrong = rng.choice(
        [f"--{text(rng)}z", f"{text(rng)}z", "--dry_run=maybe", "--workdir", "--=", "-"]
    )
    return command, [*flags, wrong]


# Data


def data_case(rng, folder, run):
    """A data set whose files are damaged or of another kind."""
    kind = rng.choice(
        ["captions", "webdataset", "coco", "karpathy", "arrayrecord", "imagefolder"]
        + ["img2dataset", "parquet", "class file"]
    )
    data, flags = folder / "data", []
    (data / "images").mkdir(parents=True)
    (data / "images" / "0.jpg").write_bytes(jpeg())
    content = rng.choice([junk(rng), nested(rng).encode(), b"", b"{}", b"[1, null]"])
    if kind == "captions":
        (data / f"captions.{rng.choice(['csv', 'tsv', 'json', 'jsonl'])}").write_bytes(
            content
        )
    elif kind == "webdataset":
        (data / "train-0.tar").write_bytes(content)
    elif kind == "coco":
        (data / "annotations").mkdir()
        (data / "train2017").mkdir()
        (data / "annotations" / "captions_train2017.json").write_bytes(content)
    elif kind == "karpathy":
        (data / "dataset.json").write_bytes(content)
    elif kind == "arrayrecord":
        (data / "train.json").write_bytes(content)
    elif kind == "img2dataset":
        (data / "00000.parquet").write_bytes(content)
        (data / "00000.tar").write_bytes(content)
    elif kind == "parquet":
        (data / "train-00000-of-00001.parquet").write_bytes(content)
    elif kind == "imagefolder":
        (data / "train" / "kind").mkdir(parents=True)
        (data / "train" / "kind" / "a.txt").write_bytes(content)
    else:
        kind, name = "webdataset", "classes.txt"
        write_tar(data / "train-0.tar", [("a.jpg", jpeg()), ("a.cls", b"7")])
        (data / name).write_bytes(content)
        flags = [f"classes={name}"]
    if rng.random() < 0.5:
        argv = [f"--config.data.train.path={data}"]
        argv += [f"--config.data.train.{flag}" for flag in flags]
        return dry(f"{TINY}:data={kind}", *argv)
    argv = ["convert", f"--data={kind}", f"--data.path={data}"]
    argv += [f"--data.{flag}" for flag in flags]
    return "prepare", [*argv, f"--out={folder / 'out'}"]


# Runs


def run_case(rng, folder, run):
    """A run whose files are damaged, for a command that reads it."""
    copy = pathlib.Path(shutil.copytree(run, folder / "run"))
    saved = json.loads((copy / "config.json").read_text())
    how = rng.randrange(7)
    if how == 0:
        (copy / "config.json").write_bytes(
            rng.choice([junk(rng), b"", b"[]", b"3", nested(rng).encode()])
        )
    elif how == 1:
        (copy / "config.json").write_text(
            json.dumps(saved)[: rng.randrange(len(json.dumps(saved)))]
        )
    elif how == 2:  # a value of another type, or a section gone
        path = rng.choice(sorted(config_check.flat(saved)))
        section = saved
        *parts, last = path.split(".")
        for part in parts:
            section = section[part]
        section[last] = {"a": {"b": []}}
        (copy / "config.json").write_text(json.dumps(saved))
    elif how == 3:  # a key or component that this version does not have
        section = saved[rng.choice(["model", "data", "evals", "loss", "optim"])]
        section[rng.choice(["name", "colour", "x y"])] = rng.choice(["no_such", 3])
        (copy / "config.json").write_text(json.dumps(saved))
    elif how == 4:
        (copy / "tokenizer.json").write_bytes(
            rng.choice([junk(rng), b"", b"{}", b"[]", nested(rng).encode()])
        )
    elif how == 5:
        state = rng.choice([3, None, "junk", "{}", "[]", '{"words": 3}', nested(rng)])
        kept = {"name": rng.choice(["words", "char"]), "state": state}
        (copy / "tokenizer.json").write_text(json.dumps(kept))
    else:
        for file in sorted((copy / "checkpoints").rglob("*")):
            if file.is_file():
                file.write_bytes(rng.choice([b"", junk(rng)]))
    out = folder / "out"
    if rng.random() < 0.5:
        return "export", [f"--workdir={copy}", "--format=open_clip", f"--out={out}"]
    return "evaluate", [f"--workdir={copy}"]


CASES = (
    file_case,
    edit_case,
    value_case,
    size_case,
    argument_case,
    flag_case,
    data_case,
    run_case,
)


def case(rng, folder, run):
    return rng.choice(CASES)(rng, folder, run)
