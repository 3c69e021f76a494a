from __future__ import annotations

import os
import signal
import time

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from soho.errors import SohoError
from soho.training import processes
from soho.training.processes import StopSignals, TrainingStopped, check_accelerator, make_accelerator


def test_fp16_without_a_gpu_is_one_sentence() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(SohoError, match=r"training\.precision=fp16 needs a GPU; use bf16 or fp32"):
        make_accelerator("fp16")


def test_one_process_may_use_several_precisions_in_turn() -> None:
    assert make_accelerator("bf16").mixed_precision == "bf16"
    assert make_accelerator("fp32").mixed_precision == "no"


def test_an_accelerator_of_another_precision_is_refused() -> None:
    accelerator = make_accelerator("bf16")
    check_accelerator(accelerator, "bf16")
    with pytest.raises(SohoError, match=r"use make_accelerator\('fp32'\)"):
        check_accelerator(accelerator, "fp32")


def test_settings_of_accelerates_own_configuration_do_not_scale_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    accelerator = make_accelerator()
    weight = torch.ones((), requires_grad=True)
    accelerator.backward(weight * 8.0)
    assert weight.grad is not None
    assert float(weight.grad) == 8.0


def test_a_launcher_s_own_sharding_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sharding(Accelerator):
        distributed_type = DistributedType.FSDP

    monkeypatch.setattr(processes, "Accelerator", Sharding)
    with pytest.raises(SohoError, match=r"asks for FSDP, .* launch without it; training\.fsdp=true shares"):
        make_accelerator()
    monkeypatch.setattr(processes, "Accelerator", Accelerator)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(SohoError, match=r"asks for DEEPSPEED, .* launch without it"):
        make_accelerator()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_noted_and_the_old_handler_comes_back(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)

    def train() -> None:
        with StopSignals() as stop:
            assert stop.received is None
            os.kill(os.getpid(), number)
            assert stop.received == number
            raise TrainingStopped(12, stop)

    with pytest.raises(TrainingStopped) as caught:
        train()
    assert (caught.value.code, caught.value.step) == (code, 12)
    assert signal.getsignal(number) is before


def test_a_second_interrupt_stops_at_once_but_not_an_echo_of_the_first() -> None:
    with StopSignals(patience=0.05) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # launchers often send it twice
        time.sleep(0.1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        stop.received = None


def test_a_signal_that_stopped_nothing_is_passed_on() -> None:
    # A shell starts its background jobs with the interrupt ignored, the tests among them.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), StopSignals():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
