"""What Ray Tune may print on the terminal: lines, and no tracebacks.

Tune logs each trial that fails with the tracebacks of two processes, and at the end the list of those trials. The study
server has said why a point failed, and the study's last line says it again. Tune keeps the tracebacks in the files
`error.txt` of the trials, under `<study>/tune/search`.
"""

import logging
import os

from seva_ray.core.errors import line_of

PRINTS_ERRORS = "TUNE_PRINT_ALL_TRIAL_ERRORS"
"""Tune's variable: with 0 it writes the errors of trials only to their files."""
LOGGERS = ("ray.tune.tune", "ray.tune.execution.tune_controller", "ray.tune.execution.experiment_state")
"""The loggers of Tune that log tracebacks. A filter must be at each, because it does not count for those below it."""
SAID = "Trials did not complete"
"""How a message begins that says again what the study says."""


def one_line(record: logging.LogRecord) -> bool:
    """A filter that leaves of a traceback the line that names the error."""
    if str(record.msg).startswith(SAID):
        return False
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if error is not None:
        record.msg, record.args = f"{record.getMessage()} ({type(error).__name__}: {line_of(error)})", ()
    record.exc_info = record.exc_text = record.stack_info = None
    return True


def without_tracebacks() -> None:
    """From now on Tune prints no traceback in this process, unless the user has asked for those of trials."""
    os.environ.setdefault(PRINTS_ERRORS, "0")
    for name in LOGGERS:
        logging.getLogger(name).addFilter(one_line)  # the same filter is added once
