"""torch.compile for plays: started afresh each time, and without the warnings of its own making."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def compiler(**config: Any) -> Iterator[Callable[..., Any]]:
    """Give ``torch.compile`` with an empty cache of compiled functions, for the length of a play.

    Parameters
    ----------
    **config
        Of :func:`torch.compile`, for every function.

    Yields
    ------
    Callable
        Compiles one function.
    """
    log = logging.getLogger("torch._dynamo")
    level = log.level
    # Importing Inductor warns that torch.jit, which it uses itself, is deprecated; Dynamo advises against .item().
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.setLevel(logging.ERROR)
        torch._dynamo.reset()
        try:
            yield lambda function: torch.compile(function, **config)
        finally:
            torch._dynamo.reset()
            log.setLevel(level)
