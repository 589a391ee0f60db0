"""Paths as users write them, in every place that takes one."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

import clipjax
from clipjax import cache, commandline, evaluate, export, paths, prepare, train
from clipjax.data.sources import tfds
from clipjax.types import UserError

ROOT = pathlib.Path(__file__).parents[1]
QUICKSTART = str(ROOT / "configs" / "quickstart.py")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home folder, and a working directory elsewhere."""
    (tmp_path / "home").mkdir()
    (tmp_path / "cwd").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "cwd")
    yield tmp_path / "home"
    assert not os.listdir(tmp_path / "cwd")  # neither ./~ nor ./gs:


def refused(capsys, main, *argv):
    """The one line by which a command refuses its arguments."""
    with pytest.raises(SystemExit) as ended:
        commandline.run(lambda _: main(["command", *argv]))
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and len(lines) == 1, lines
    return lines[0]


def test_the_home_folder(home):
    assert paths.expand("~/a b") == home / "a b"
    assert paths.local("~", "a run") == home
    assert paths.expand("a~b") == pathlib.Path("a~b")
    assert paths.expand("~nobody-of-this-name/x") == pathlib.Path(
        "~nobody-of-this-name/x"
    )


def test_no_home_folder(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda text: text)  # as without one
    with pytest.raises(UserError, match="no home folder is known"):
        paths.expand("~/x")
    assert paths.expand("./~") == pathlib.Path("~")
    with pytest.raises(OSError):
        paths.home("x").mkdir(parents=True)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    with pytest.raises(UserError, match="no home folder is known.*data_dir="):
        tfds.make("train", dataset="mnist")
    monkeypatch.delenv("CLIPJAX_CACHE")
    with pytest.raises(OSError):
        cache.folder("index").mkdir(parents=True)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "a/" + "é" * 200, "\udcff"])
def test_names_that_no_file_can_have(name):
    with pytest.raises(UserError):
        paths.expand(name)


@pytest.mark.parametrize("name", ["gs://b/x", "s3://b", "https://h/x", "hdfs://x"])
def test_addresses_are_no_local_folders(name):
    with pytest.raises(UserError, match=re.escape(name)):
        paths.local(name, "a run")


def test_a_working_directory_that_is_gone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").mkdir()
    os.chdir("gone")
    (tmp_path / "gone").rmdir()
    assert paths.local(tmp_path / "x", "a run") == tmp_path / "x"
    with pytest.raises(UserError, match="x: the working directory no longer exists"):
        paths.local("x", "a run")
    os.chdir(tmp_path / "cwd")


ADDRESSES = {
    "file:///data/x": "write it without file://",
    "file:/data/x": "write it without file://",
    "hf://org/name": "hf-hub:ORG/NAME",
    "gs:/b/x": "copy it",  # as pathlib leaves it
    "HTTPS://h/x": "copy it",
}


@pytest.mark.parametrize("name", ADDRESSES)
def test_what_to_do_about_an_address(name, tmp_path, monkeypatch):
    for read in (paths.expand, lambda name: paths.local(name, "a run")):
        with pytest.raises(UserError, match=re.escape(name)) as caught:
            read(name)
        assert ADDRESSES[name] in str(caught.value)
    monkeypatch.setenv("CLIPJAX_CACHE", name)
    with pytest.raises(UserError, match="CLIPJAX_CACHE"):
        cache.folder("index")
    assert paths.local(f"./{name}", "a run").is_relative_to(tmp_path / "cwd")


@pytest.mark.parametrize("name", ["a:b", "C:x", "a//b", "2024:10:01/x", "é:/x"])
def test_colons_are_no_addresses(name, tmp_path):
    assert paths.local(name, "a run") == tmp_path / "cwd" / name


SCENES = ("--data=scenes", "--data.size=8")
ADDRESS = "gs://bucket/x"


@pytest.mark.parametrize(
    ("main", "argv"),
    [
        (train.main, [f"--config={QUICKSTART}", f"--workdir={ADDRESS}"]),
        (train.main, [f"--config={QUICKSTART}", f"--config.init_from={ADDRESS}"]),
        (train.main, [f"--config={QUICKSTART}", f"--config.init_text_from={ADDRESS}"]),
        (evaluate.main, [f"--workdir={ADDRESS}"]),
        (evaluate.main, ["--workdir=x", f"--out={ADDRESS}"]),
        (export.main, [f"--workdir={ADDRESS}", "--format=hf", "--out=x"]),
        (export.main, ["--workdir=x", "--format=hf", f"--out={ADDRESS}"]),
        (prepare.main, ["convert", *SCENES, f"--out={ADDRESS}"]),
        (prepare.main, ["inspect", *SCENES, f"--out={ADDRESS}"]),
        (prepare.main, ["tiny", *SCENES, f"--out={ADDRESS}"]),
        (lambda argv: clipjax.load(ADDRESS), []),
    ],
)
def test_a_bucket_is_refused_everywhere(capsys, main, argv):
    assert f"{ADDRESS}: " in refused(capsys, main, *argv)
    assert not os.listdir(".")


@pytest.mark.parametrize(
    ("main", "argv"),
    [
        (train.main, ["--config=~/gone.py"]),
        (train.main, [f"--config={QUICKSTART}", "--config.init_from=~/gone"]),
        (
            train.main,
            [f"--config={QUICKSTART}:data=captions", "--config.data.train.path=~/gone"],
        ),
        (evaluate.main, ["--workdir=~/gone"]),
        (export.main, ["--workdir=~/gone", "--format=hf", "--out=x"]),
        (prepare.main, ["verify", "--data=webdataset", "--data.path=~/gone"]),
        (lambda argv: clipjax.load("~/gone"), []),
    ],
)
def test_home_is_looked_into_everywhere(capsys, home, main, argv):
    assert f"{home}/gone" in refused(capsys, main, *argv)


def test_a_config_below_colons(tmp_path, capsys):
    folder = tmp_path / "2024:10:01 [a].py:x"
    folder.mkdir()
    file = folder / "c.py"
    file.write_text("def get_config(arg):\n    raise ValueError(f'given {arg}')\n")
    assert commandline.split_value(f"{file}:loss=clip") == (str(file), "loss=clip")
    assert commandline.split_value(str(file)) == (str(file), "")
    assert commandline.split_value("gone.py:loss=a:b") == ("gone.py", "loss=a:b")
    assert commandline.split_value("gone") == ("gone", "")
    said = refused(capsys, train.main, f"--config={file}:loss=siglip")
    assert "given loss=siglip" in said


@pytest.mark.parametrize("name", ["\xe9", "\udcc3\udca9"])
def test_another_encoding_of_names(name, monkeypatch):
    """Of a Latin-1 or a C locale, in which an UTF-8 name looks so to Python."""
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")
    assert paths.expand("plain") == pathlib.Path("plain")
    with pytest.raises(UserError, match="iso8859-1: set PYTHONUTF8=1"):
        paths.expand(name)


def test_a_command_in_a_message_is_quoted(tmp_path):
    with pytest.raises(UserError, match="--data_dir='.*/a b'`"):
        tfds.make("train", dataset="mnist", data_dir=str(tmp_path / "a b"))


@pytest.mark.parametrize(
    "name", ["a b", "it's", 'a"b', "$HOME", "a\nb", "é", "a\\b'\n"]
)
def test_a_word_of_the_shell(name):
    said = subprocess.run(
        ["bash", "-c", f"printf %s {paths.shell(name)}"], capture_output=True
    )
    assert said.stdout == name.encode()
    assert "\n" not in paths.shell(name)


def test_what_the_output_cannot_say_is_escaped():
    code = (
        "import sys; from clipjax import commandline, paths\n"
        "from rich.console import Console\n"
        "def main(argv):\n"
        "    Console().print('rich \\u732b \\xe9'); print('plain \\u732b \\udcff')\n"
        "    print('shell', paths.shell('\\u732b'))\n"
        "    raise commandline.UserError('told \\u732b')\n"
        "commandline.run(main)\n"
    )
    env = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env)
    assert done.returncode == 2
    assert done.stdout.decode("ascii").splitlines() == [
        "rich \\u732b \\xe9",
        "plain \\u732b \\udcff",
        "shell $'\\xe7\\x8c\\xab'",
    ]
    assert done.stderr.decode("ascii") == "error: told \\u732b\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_a_closed_output_ends_nothing(closed, tmp_path):
    """A file that is opened then has another number than the output's."""
    code = (
        "import sys; from clipjax import commandline, paths\n"
        "from rich.console import Console\n"
        "def main(argv):\n"
        f"    with open({str(tmp_path / 'kept')!r}, 'w') as file:\n"
        "        assert file.fileno() > 2\n"
        "        print('plain'); Console().print('rich'); paths.shell('\u732b')\n"
        "        print('error', file=sys.stderr)\n"
        "        file.write('right')\n"
        "    return 3\n"
        "commandline.run(main)\n"
    )
    command = f'exec "{sys.executable}" -c "$CODE" {closed}'
    env = {**os.environ, "CODE": code, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], env=env)
    assert done.returncode == 3
    assert (tmp_path / "kept").read_text() == "right"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_is_full_is_named(unbuffered):
    command = [sys.executable, "-m", "clipjax.prepare", "verify", *SCENES]
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered, "PYTHONPATH": str(ROOT)}
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=env)
    said = done.stderr.decode().splitlines()
    assert done.returncode == 2 and len(said) == 1
    assert re.match("error: .*the output.*No space left on device", said[0])
