"""Carries a plugin: one instance for all calls, its output in the host's log.

A plugin has no files, standard output included: what reaches for one ends it.
"""

import functools
import io
import json
import sys
import traceback

from componentize_py_types import Err
from wit_world.imports import log
from wit_world.imports.types import Diagnostic, Severity


class Log(io.TextIOBase):
    """A stream whose lines go to the host's log."""

    def __init__(self, level: log.Level):
        self.level = level
        self.line = ""

    def write(self, text: str) -> int:
        *lines, self.line = (self.line + text).split("\n")
        for line in lines:
            log.write(self.level, line)
        return len(text)


sys.stdout = Log(log.Level.INFO)
sys.stderr = Log(log.Level.WARN)


def plugin(cls):
    """Decorates a plugin's class, so that one instance of it serves all calls.

    Componentize-py would make an instance for each. What leaves a method is logged before it ends
    the plugin; `Err` is no accident: it is how a method returns the contract's `error`.
    """
    instance = cls()
    (contract,) = cls.__bases__
    for name in contract.__abstractmethods__:
        setattr(cls, name, _serving(instance, getattr(cls, name)))
    configure = cls.configure
    cls.configure = lambda self, config: _refused(config) or configure(self, config)
    return cls


def _refused(config: str) -> list[Diagnostic]:
    """What is wrong with a configuration that is no table."""
    try:
        is_table = isinstance(json.loads(config), dict)
    except ValueError:
        is_table = False
    return [] if is_table else [Diagnostic(Severity.ERROR, "", "expected a table", None)]


def _serving(instance, method):
    @functools.wraps(method)
    def call(_, *arguments):
        try:
            return method(instance, *arguments)
        except Err:
            raise
        except BaseException as exception:
            log.write(log.Level.ERROR, _in_words(exception))
            raise

    return call


def _in_words(exception: BaseException) -> str:
    """As `traceback` has it, without the lines of the source, which it would read from files."""
    words = f"{type(exception).__name__}: {exception}"
    # The first frame is that of this file.
    for frame, line in list(traceback.walk_tb(exception.__traceback__))[1:]:
        words += f"\n  at {frame.f_code.co_filename}:{line}, in {frame.f_code.co_qualname}"
    return words
