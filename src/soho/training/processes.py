"""What concerns the processes of a run: how they start, how they are told to stop, what they must agree on."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from datetime import timedelta
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from soho.errors import SohoError

_MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
_SUPPORTED = {"NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU", "MULTI_MLU"}


@atexit.register
def _leave_group() -> None:
    """End gloo's threads before the interpreter ends: a process that still has them is aborted now and then."""
    if dist.is_available() and dist.is_initialized() and dist.get_backend() == "gloo":
        dist.destroy_process_group()


def make_accelerator(precision: str = "fp32") -> Accelerator:
    """Set up Accelerate for this process, started alone, by torchrun or by `accelerate launch`.

    Args:
        precision: "fp32", "bf16" or "fp16".

    Returns:
        An accelerator whose data-parallel wrapper accepts unused parameters (a frozen CNN, a head without terms)
        and leaves buffers alone: each process gathers its own dictionary counts, which rank 0's must not overwrite.

    Raises:
        SohoError: the precision does not exist on this device, or the launcher asks for FSDP or DeepSpeed by
            options of its own.
    """
    for kind in ("FSDP", "DEEPSPEED"):  # on CPUs Accelerate would pass over it
        if os.environ.get(f"ACCELERATE_USE_{kind}", "false").lower() == "true":
            raise _other_way(kind)
    mixed_precision = _MIXED_PRECISION[precision]
    shared = AcceleratorState._shared_state
    if shared and shared.get("_mixed_precision") != mixed_precision:
        # Accelerate keeps one state per process; a second run of the same process may use another precision.
        AcceleratorState._reset_state()
    handlers = [
        DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False),
        # One process may evaluate or write for long while the others wait.
        InitProcessGroupKwargs(timeout=timedelta(hours=2)),
    ]
    try:
        accelerator = Accelerator(
            mixed_precision=mixed_precision, cpu=not _has_accelerator_device(), kwargs_handlers=handlers
        )
    except (ValueError, RuntimeError) as error:
        if "mixed precision" in str(error):
            raise SohoError(f"training.precision={precision} does not work on this device: {error}") from error
        raise
    if precision == "fp16" and accelerator.scaler is None:
        # Accelerate would silently compute in fp32.
        raise SohoError("training.precision=fp16 needs a GPU; use bf16 or fp32")
    if accelerator.distributed_type not in {DistributedType[name] for name in _SUPPORTED}:
        raise _other_way(accelerator.distributed_type.value)
    # The trainer divides losses by exact counts; a value from Accelerate's own configuration would divide again.
    accelerator.gradient_accumulation_steps = 1
    return accelerator


def _other_way(kind: str) -> SohoError:
    return SohoError(
        f"the launcher asks for {kind}, but only the recipe can share a model out over processes: "
        "launch without it; training.fsdp=true shares a model out in training"
    )


def check_accelerator(accelerator: Accelerator, precision: str) -> None:
    """Refuse an accelerator that was not set up as `make_accelerator(precision)` does.

    Raises:
        SohoError: it computes in another precision, or would overwrite buffers.
    """
    parallel = accelerator.ddp_handler
    sound = parallel is not None and parallel.find_unused_parameters and not parallel.broadcast_buffers
    if accelerator.mixed_precision != _MIXED_PRECISION[precision] or (accelerator.num_processes > 1 and not sound):
        raise SohoError(f"the accelerator was not made for this run; use make_accelerator({precision!r})")


def _has_accelerator_device() -> bool:
    others = [getattr(torch, name, None) for name in ("xpu", "npu", "mlu")]
    return (
        torch.cuda.is_available()
        or torch.backends.mps.is_available()
        or any(module is not None and module.is_available() for module in others)
    )


def share_buffers(model: nn.Module, accelerator: Accelerator) -> None:
    """Give all processes the main one's buffers, as data parallelism does with the parameters at its start."""
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)


def average_batch_norm_statistics(model: nn.Module, accelerator: Accelerator) -> None:
    """Give all processes the mean of their batch-norm running statistics.

    Gradients keep the weights equal on all processes; running statistics would drift apart, and a checkpoint holds
    only one copy. Fixed statistics (a frozen CNN) are left alone.
    """
    if accelerator.num_processes == 1:
        return
    buffers = [
        buffer
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.training
        for buffer in (module.running_mean, module.running_var)
        if buffer is not None
    ]
    if not buffers:
        return
    means = accelerator.reduce(torch.cat([buffer.flatten() for buffer in buffers]), "mean")
    for buffer, mean in zip(buffers, means.split([buffer.numel() for buffer in buffers])):
        buffer.copy_(mean.view_as(buffer))


class TrainingStopped(SystemExit):
    """Training was stopped from outside after its state was saved; the same command continues it.

    Attributes:
        step: optimizer steps done.
        code: the exit code, 128 plus the signal's number.
    """

    def __init__(self, step: int, stop: StopSignals) -> None:
        # Where another process got the signal and this one did not: SIGTERM is what launchers send.
        super().__init__(128 + (stop.received or signal.SIGTERM))
        self.step = step


class StopSignals:
    """Notes SIGTERM and SIGINT instead of dying of them, so that a step ends and its state is saved.

    A second Ctrl-C, some seconds after the first, stops at once.
    """

    def __init__(self, patience: float = 2.0) -> None:
        self.received: int | None = None
        self._patience = patience
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None and self.received is not None:
            # It came too late to stop anything here; whatever follows should still hear of it.
            signal.raise_signal(self.received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._since = number, time.monotonic()
            # A signal to the whole process group kills the data workers too; torch would answer their death with
            # an exception in the middle of a step.
            if hasattr(signal, "SIGCHLD"):
                self._before.setdefault(signal.SIGCHLD, signal.signal(signal.SIGCHLD, lambda *_: None))
        elif number == signal.SIGINT and time.monotonic() - self._since > self._patience:
            raise KeyboardInterrupt
