"""The one exception for what a user can put right."""


class UserError(Exception):
    """A mistake or an outside fault, said in one line: what was wrong, where, and what to do next.

    The command line prints it without a traceback (unless ``--debug``) and exits with 1.
    Library callers may catch it; programming errors are raised as what they are.
    """


def error_line(error: BaseException) -> str:
    """What went wrong in a line of a report: a ``UserError`` in its own words, any other with the name of its kind."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())
