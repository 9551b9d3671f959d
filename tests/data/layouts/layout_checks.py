"""Checks that the tests of several layouts share."""


def one_line(error, *parts):
    """Check that an error is one line and has all `parts` in it."""
    text = str(error.value)
    assert "\n" not in text and all(part in text for part in parts), text
