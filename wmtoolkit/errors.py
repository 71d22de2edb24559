"""The one exception for what a user can put right."""


class UserError(Exception):
    """A mistake or an outside fault, said in one line: what was wrong, where, and what to do next.

    The command line prints it without a traceback (unless ``--debug``) and exits with 1.
    Library callers may catch it; programming errors are raised as what they are.
    """
