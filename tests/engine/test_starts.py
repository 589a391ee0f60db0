import json

from clipjax.engine import starts
from clipjax.engine.starts import Start


def kept(folder):
    return json.loads((folder / "starts.json").read_text())["starts"]


def test_starts_are_kept_in_order(tmp_path):
    starts.add(tmp_path, Start("a", "x.py:loss=clip", {"seed": (0, 1)}), 0)
    starts.add(tmp_path, Start("b", "x.py", {}), 40)
    first, second = kept(tmp_path)
    assert first["command"] == "a" and first["changed"] == {"seed": [0, 1]}
    assert (second["command"], second["step"]) == ("b", 40)


def test_of_many_the_first_and_the_last_are_kept(tmp_path):
    for number in range(starts.MOST + 5):
        starts.add(tmp_path, Start(str(number), "", {}), number)
    steps = [one["step"] for one in kept(tmp_path)]
    assert len(steps) == starts.MOST and steps[0] == 0
    assert steps[1:] == list(range(6, starts.MOST + 5))


def test_a_damaged_file_begins_anew(tmp_path):
    (tmp_path / "starts.json").write_text('{"starts": 3')
    starts.add(tmp_path, Start("a", "", {}), 0)
    assert len(kept(tmp_path)) == 1
