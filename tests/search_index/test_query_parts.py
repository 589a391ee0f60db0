"""The words of a query and their parts."""

import pytest

from clipjax.search_index.query_parts import Part, parse
from clipjax.types import UserError


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a dog on grass"], [Part("a dog on grass")]),
        (["a", "dog"], [Part("a dog")]),
        (
            ["a dog", "+", "beach", "-", "many", "people"],
            [Part("a dog"), Part("beach"), Part("many people", -1.0)],
        ),
        (
            ["a dog + beach - people"],
            [Part("a dog"), Part("beach"), Part("people", -1.0)],
        ),
        (["t-shirt c++ x-ray"], [Part("t-shirt c++ x-ray")]),
        (["- people"], [Part("people", -1.0)]),
        (["0.5*beach - 2 * people"], [Part("beach", 0.5), Part("people", -2.0)]),
        (["3 dogs", "+", ".25*a*b"], [Part("3 dogs"), Part("a*b", 0.25)]),
        (["東京  \n tower"], [Part("東京 tower")]),
    ],
)
def test_parts(words, expected):
    assert parse(words) == expected


def test_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "my dog - copy.jpg", "plain"):
        (tmp_path / name).write_bytes(b"")
    words = ["a.jpg", "in snow", "-", "0.5*my dog - copy.jpg", "plain"]
    named = [(p.words, p.weight, p.image and p.image.name) for p in parse(words)]
    assert named == [
        ("a.jpg", 1.0, "a.jpg"),
        ("in snow", 1.0, None),
        ("my dog - copy.jpg", -0.5, "my dog - copy.jpg"),
        ("plain", 1.0, "plain"),
    ]
    assert parse(["0.5*beach"])[0].label == "0.5*beach"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no query given"),
        (["  "], "no query given"),
        (["a dog +"], "ends with a sign"),
        (["a dog + - cat"], "'-' follows another sign"),
        (["0*dog"], "a weight is above 0"),
        (["2*"], "weights nothing"),
        (["gone.JPG"], "gone.JPG: there is no such file"),
        (["2*gone.heic"], "gone.heic: there is no such file"),
    ],
)
def test_mistakes(words, message):
    with pytest.raises(UserError) as error:
        parse(words)
    assert message in str(error.value) and "\n" not in str(error.value)
