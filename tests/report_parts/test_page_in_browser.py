"""A report in a real browser: what it looks like there."""

import browser_tools
import pytest
import report_tools

from clipjax import report

pytestmark = [pytest.mark.thorough, browser_tools.needs_browser]

PICTURES = """
const uris = [...document.querySelectorAll('image')].map(x => x.getAttribute('href'));
const load = uri => {
  const one = new Image();
  one.src = uri;
  return one.decode().then(() => one.naturalWidth);
};
Promise.all(uris.map(load)).then(done, error => done(String(error)));
"""
DANGLING = """
return [...document.querySelectorAll('use')].map(x => x.getAttribute('href'))
  .filter(x => !document.querySelector(x));
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    long = "W" * 300  # a word that no line holds
    count = report_tools.IMAGES * report_tools.CAPTIONS
    texts = [f"<script>throw 1</script> {n} {long}" for n in range(count)]
    runs = [
        report_tools.run(folder, name, captions=texts, model=name == "a")
        for name in ("a", "b" * 80)
    ]
    out = folder / "r.html"
    assert report.main(["report", str(runs[0]), f"--out={out}"]) == 0
    two = folder / "two.html"
    assert report.main(["report", *map(str, runs), f"--out={two}"]) == 0
    return out, two


@pytest.mark.parametrize("width", [390, 1280])
def test_page(page, width):
    with browser_tools.browser(width) as window:
        for file in page:
            for dark in (False, True):
                window.open(file, dark=dark)
                window.run(
                    "document.querySelectorAll('details').forEach(x => x.open = true)"
                )
                assert window.log() == []
                wide = "const e = document.documentElement; "
                wide += "return [e.scrollWidth, e.clientWidth]"
                assert len(set(window.run(wide))) == 1
                widths = window.wait(PICTURES)
                assert isinstance(widths, list) and widths and min(widths) > 0
                assert window.run(DANGLING) == []
                found = window.run(browser_tools.CONTRASTS)
                assert len(found) > 200
                assert found[0][0] >= 4.5, found[:5]
                back = window.run(
                    "return getComputedStyle(document.body).backgroundColor"
                )
                light = sum(map(int, back[4:-1].split(","))) > 380
                assert light != dark


def test_print_has_what_is_folded(page):
    with browser_tools.browser(1280) as window:
        window.open(page[0], dark=True)
        window.developer("Emulation.setEmulatedMedia", {"media": "print"})
        heights = window.run(
            "return [...document.querySelectorAll('details')].map(x => "
            "x.getBoundingClientRect().height - "
            "x.querySelector('summary').getBoundingClientRect().height)"
        )
        assert heights and min(heights) > 40
        back = window.run("return getComputedStyle(document.body).backgroundColor")
        assert sum(map(int, back[4:-1].split(","))) > 700
