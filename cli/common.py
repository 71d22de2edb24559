"""What every ``wmtool`` command shares: options, error reporting, clean stdout."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from wmtoolkit.errors import UserError, error_line
from wmtoolkit.progress import ENABLED


def command_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--json``, ``--quiet`` and ``--debug``, and run the command so that users never meet a traceback.

    The command returns a JSON-able document or None and takes no notice of the three options: with ``--json`` the
    document is all that reaches stdout; without it stdout gets ``document["text"]`` if there is one. Whatever
    libraries print meanwhile goes to stderr.
    """

    @click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document on stdout.")
    @click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")
    @click.option("--debug", is_flag=True, help="Show tracebacks and debug logs.")
    @functools.wraps(function)
    def wrapper(*args: Any, as_json: bool, quiet: bool, debug: bool, **kwargs: Any) -> None:
        logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(message)s", stream=sys.stderr)
        stdout = sys.stdout
        token = ENABLED.set(not quiet and sys.stderr.isatty())
        try:
            with contextlib.redirect_stdout(sys.stderr):
                document = function(*args, **kwargs)
        except click.ClickException:
            raise
        except KeyboardInterrupt as interrupt:
            _fail(str(interrupt) or "interrupted", 130, debug)
        except UserError as error:
            _fail(str(error), 1, debug)
        except OSError as error:
            _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1, debug)
        except Exception as error:
            _fail(f"{error_line(error)} (this is a bug; --debug shows where)", 1, debug)
        else:
            if document is not None:
                text = json.dumps(document, indent=2) if as_json else document.get("text")
                if text:
                    print(text, file=stdout)
        finally:
            ENABLED.reset(token)

    return wrapper


def _fail(message: str, code: int, debug: bool) -> None:
    """Report the exception being handled in one line, or with its traceback when debugging, and exit."""
    if debug:
        raise
    click.echo(f"wmtool: {' '.join(message.split())}", err=True)
    sys.exit(code)


def say(message: str) -> None:
    """A line for people, on stderr."""
    click.echo(message, err=True)


def check_out(out: Path | None, *, resume: bool | None = None, overwrite: bool = False) -> None:
    """Refuse an output folder that already holds something, unless told what to do with it.

    ``resume`` is None for commands that cannot resume.
    """
    if out is None or not out.exists() or resume or overwrite:
        return
    if not out.is_dir():
        raise UserError(f"--out {out} is a file; give a folder")
    if any(out.iterdir()):
        go_on = "" if resume is None else "--resume to go on or "
        raise UserError(f"--out {out} is not empty; add {go_on}--overwrite to replace it")
