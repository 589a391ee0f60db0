"""The parts of clipjax.report: a run's files, its page, and the page as text."""
