"""Runs a benchmark in a process of its own, so that none starts with the memory that another has kept."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection

import torch

from benchmarks.options import Options
from benchmarks.report import Outcome
from soho.errors import SohoError

Benchmark = Callable[[Options], Outcome]


def run_apart(name: str, run: Benchmark, options: Options) -> Outcome:
    """Run a benchmark in a new process.

    Args:
        name: for messages.
        run: a function of a module, which the new process imports.
        options: `after_case` is called in this process.

    Returns:
        What the benchmark found.

    Raises:
        SohoError: the benchmark's own, or its process was killed; what it found until then has gone to `after_case`.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    sent = replace(options, after_case=print)  # any function that can be sent; exchanged there
    process = context.Process(target=_child, args=(theirs, run, sent, torch.get_num_threads()), name=name)
    process.start()
    theirs.close()  # ours would else wait for a second writer after the first is dead
    found: Outcome | None = None
    complete = False
    try:
        while not complete:
            message, complete = ours.recv()
            if isinstance(message, SohoError):
                raise message
            found = message
            options.after_case(found)
    except EOFError:
        process.join()
        raise SohoError(
            f"the process of this benchmark ended with code {process.exitcode} (-9: killed, most often because memory "
            "ran out); what it had measured is kept"
        ) from None
    finally:
        process.join()
    assert found is not None
    return found


def _child(pipe: Connection, run: Benchmark, options: Options, threads: int) -> None:
    torch.set_num_threads(threads)
    try:
        found = run(replace(options, after_case=lambda outcome: pipe.send((outcome, False))))
    except SohoError as error:
        pipe.send((error, True))
    else:
        pipe.send((found, True))
