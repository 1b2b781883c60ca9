"""What may be logged of an error: nothing that a client sent."""

import logging
import traceback

LOGGER = logging.getLogger("ray.serve")  # its lines carry the request's id


def log_error(what: str, error: BaseException) -> None:
    """Logs the class of an error and where it arose. Its message is left out: it may quote a prompt."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    LOGGER.error("%s: %s\n%s", what, type(error).__name__, frames)
