"""The training loop both networks share: a time or step budget, a cosine schedule, checkpoints, progress."""

from __future__ import annotations

import argparse
import ctypes
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from .data import DataError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

WARM_UP = 0.03  # share of the budget
CHECKPOINT_SECONDS = 120
PRINT_SECONDS = 15
DEVICES = ("auto", "cpu", "cuda")
BAR = 30  # characters
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def add_options(parser: argparse.ArgumentParser, learning_rate: float) -> None:
    """Options of every training command."""
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, default=30.0, help="time budget; the schedule follows the clock (30)")
    budget.add_argument("--steps", type=int, help="a number of steps instead: repeatable on the same machine")
    parser.add_argument("--out", required=True, help="checkpoint to write, such as runs/segmenter.pt")
    parser.add_argument("--resume", action="store_true", help="go on from --out with what is left of the budget")
    parser.add_argument("--init", help="start from the weights of this checkpoint (refiner: or bundle)")
    parser.add_argument("--learning-rate", type=float, default=learning_rate, help=f"peak ({learning_rate})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (2)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: the GPU where there is one (auto)")
    parser.add_argument("--tensorboard", help="folder for TensorBoard, if it is installed")


def seed_everything(options: argparse.Namespace) -> None:
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)


def device(options: argparse.Namespace) -> torch.device:
    """Where to train."""
    there = torch.cuda.is_available()
    if options.device == "cuda" and not there:
        raise DataError("--device cuda: this PyTorch finds no GPU; use --device cpu, or a build for CUDA")
    return torch.device("cuda" if there and options.device != "cpu" else "cpu")


def train(
    model: torch.nn.Module, step: Callable, options: argparse.Namespace, facts: dict, weight_decay: float
) -> list:
    """Minimises `step(rng, progress)`, a loss, over the parameters of `model`; returns every loss. The model ends on the CPU.

    It trains on `device(options)`, where `step` has to bring its tensors. `progress` is the share of the budget spent.
    `facts` are stored in the checkpoint beside the weights.
    The random numbers of a step depend on the seed and the step's number only, so a resumed run draws what an
    uninterrupted one would have drawn.
    """
    model.to(device(options))
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=weight_decay)
    number, spent = 0, 0.0
    if options.init and not options.resume:
        state = load_checkpoint(options.init)
        start_from(model, state["model"], options.init)
        facts = {**facts, "before": total(state)}
    if options.resume:
        state = load_checkpoint(out)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        number, spent, facts = state["step"], state["seconds"], state["facts"]
        print(f"resumed at step {number}, {spent / 60:.1f} minutes", flush=True)
    board = _tensorboard(options.tensorboard)
    begun = time.monotonic() - spent
    printed = saved = time.monotonic()
    history, printed_until = [], 0
    model.train()
    while True:
        seconds = time.monotonic() - begun
        progress = number / options.steps if options.steps else seconds / (60 * options.minutes)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * schedule(progress)
        loss = step(np.random.default_rng([options.seed, number]), progress)
        if not math.isfinite(loss.item()):
            raise RuntimeError(f"the loss is {loss.item()} at step {number}: lower --learning-rate")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        number += 1
        history.append(loss.item())
        now = time.monotonic()
        if now - printed > PRINT_SECONDS:
            mean = sum(history[printed_until:]) / len(history[printed_until:])
            show(progress, f"{seconds / 60:6.1f} min  step {number:6}  loss {mean:.4f}")
            if board:
                board.add_scalar("loss", mean, number)
                board.add_scalar("learning_rate", optimizer.param_groups[0]["lr"], number)
                board.add_scalar("steps_per_minute", 60 * number / max(now - begun, 1e-3), number)
                board.flush()
            printed, printed_until = now, len(history)
        if now - saved > CHECKPOINT_SECONDS:
            save_checkpoint(out, model, optimizer, number, now - begun, facts)
            saved = now
    seconds = time.monotonic() - begun
    save_checkpoint(out, model.cpu(), optimizer, number, seconds, facts)
    if board:
        board.close()
    print("\n" * sys.stdout.isatty() + f"{number} steps in {seconds / 60:.1f} minutes: {out}", flush=True)
    return history


def start_from(model: torch.nn.Module, weights: dict, path: str | Path) -> None:
    """Loads weights of the same architecture, from `path`."""
    try:
        model.load_state_dict(weights)
    except RuntimeError:  # PyTorch's text is a list of every tensor
        raise DataError(
            f"these weights are of another architecture; give the options they were trained with (--planes …): {path}"
        ) from None


def show(progress: float, text: str) -> None:
    """A bar that stays on its line in a terminal, a line of its own in a log."""
    if sys.stdout.isatty():
        done = round(BAR * progress)
        print(f"\r[{'#' * done}{'.' * (BAR - done)}] {100 * progress:5.1f} %  {text} ", end="", flush=True)
    else:
        print(f"{100 * progress:5.1f} %  {text}", flush=True)


def keep_freed_memory() -> None:
    """Lets the C library reuse large blocks instead of giving them back: page faults take half of a step otherwise."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library
    for parameter in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
        mallopt(parameter, 2**31 - 1)


def schedule(progress: float) -> float:
    """Factor of the learning rate: a linear warm-up, then half a cosine to zero."""
    if progress < WARM_UP:
        return max(progress / WARM_UP, 0.05)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - WARM_UP) / (1 - WARM_UP))))


def save_checkpoint(
    path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int, seconds: float, facts: dict
) -> None:
    """Written beside and renamed, so that an interruption leaves the former one."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "seconds": seconds}
    partial = path.with_suffix(".partial")
    torch.save({**state, "facts": facts}, partial)
    partial.replace(path)


def load_checkpoint(path: str | Path) -> dict:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint: {path}")
    return torch.load(path, map_location="cpu")


def total(state: dict) -> tuple:
    """(steps, minutes) of a checkpoint and of those it started from."""
    steps, minutes = state["facts"].get("before", (0, 0.0))
    return steps + state["step"], minutes + state["seconds"] / 60


def _tensorboard(folder: str | None) -> SummaryWriter | None:
    if not folder:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("TensorBoard is not installed: --tensorboard ignored", flush=True)
        return None
    return SummaryWriter(folder)
