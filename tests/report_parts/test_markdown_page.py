import pytest

from clipjax.report_parts.markdown_page import escape


@pytest.mark.parametrize(
    "text, shown",
    [
        ("a <script> & b", "a &lt;script&gt; &amp; b"),
        ("*a* _b_ `c` [d](e) | f", r"\*a\* \_b\_ \`c\` \[d\](e) \| f"),
        ("- a", r"\- a"),
        ("1. a", r"1\. a"),
        ("83.93 %", "83.93 %"),
        ("# a\n## b", r"\# a \#\# b"),
        ("a\\", "a\\\\"),
        ("![x](y)", r"\!\[x\](y)"),
    ],
)
def test_texts_are_shown_as_they_are(text, shown):
    assert escape(text) == shown
