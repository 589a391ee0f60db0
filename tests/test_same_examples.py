"""Property tests take the same examples whichever tests ran before them."""

import sys
import types

import hypothesis
import pytest
from hypothesis import strategies as st

providers = pytest.importorskip("hypothesis.internal.conjecture.providers")


def examples():
    found = []

    @hypothesis.settings(max_examples=300)
    @hypothesis.given(st.integers(), st.text(), st.floats(allow_nan=False))
    def collect(number, text, real):
        found.append((number, text, real))

    collect()
    return found


@pytest.mark.skipif(
    not hasattr(providers.HypothesisProvider, "_local_constants"),
    reason="this hypothesis draws no constants of modules",
)
def test_modules_that_were_imported_change_none(tmp_path, monkeypatch):
    before = examples()
    module = types.ModuleType("constants")
    module.__file__ = str(tmp_path / "constants.py")
    lines = [f"{n * 7919 + 10**6}, 'word number {n}', {n}.125" for n in range(200)]
    (tmp_path / "constants.py").write_text(f"ALL = [{', '.join(lines)}]\n")
    monkeypatch.setitem(sys.modules, "constants", module)
    assert examples() == before
