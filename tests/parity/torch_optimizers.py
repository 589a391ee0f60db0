"""PyTorch's optimizers on known parameters and gradients, ten steps in float64."""

from __future__ import annotations

import math

import torch

STEPS = 10
START = {
    "kernel": [[1.0, -2.0], [0.5, 3.0], [-0.7, 0.2]],
    "bias": [0.1, -0.2],
}
# name -> (their class, their arguments, our options)
CASES = {
    "sgd": ("SGD", {"momentum": 0.9, "nesterov": True}, {}),
    "adam": ("Adam", {}, {}),
    "adamw": ("AdamW", {"betas": (0.9, 0.98), "eps": 1e-6}, {}),
    "nadam": ("NAdam", {}, {}),
    "radam": ("RAdam", {}, {}),
    "amsgrad": ("Adam", {"amsgrad": True}, {}),
    "adamax": ("Adamax", {}, {}),
    "adadelta": ("Adadelta", {}, {}),
    "adagrad": ("Adagrad", {}, {}),
    "rmsprop": ("RMSprop", {"alpha": 0.9, "momentum": 0.9}, {}),
    "rmsprop centered": (
        "RMSprop",
        {"centered": True, "alpha": 0.9},
        {"momentum": 0.0, "centered": True},
    ),
    "adafactor": ("Adafactor", {}, {"min_dim": 1}),
}
LR, DECAY = 0.01, 0.1


def gradient(name: str, step: int) -> list:
    """A gradient in the shape of START[name], of changing signs and falling sizes."""

    def entry(row: int, column: int) -> float:
        size = 0.5 + 0.3 * row - 0.2 * column
        return size * math.cos(0.9 * step + row + 2 * column) * 0.8**step

    if name == "bias":
        return [entry(3, column) for column in range(2)]
    return [[entry(row, column) for column in range(2)] for row in range(3)]


def run(name: str) -> dict[str, list]:
    """The parameters after the steps; weight decay is on the kernel alone."""
    kind, arguments, _ = CASES[name]
    params = {
        key: torch.nn.Parameter(torch.tensor(value, dtype=torch.float64))
        for key, value in START.items()
    }
    groups = [
        {"params": [params["kernel"]], "weight_decay": DECAY},
        {"params": [params["bias"]], "weight_decay": 0.0},
    ]
    optimizer = getattr(torch.optim, kind)(groups, lr=LR, **arguments)
    for step in range(STEPS):
        for key, parameter in params.items():
            parameter.grad = torch.tensor(gradient(key, step), dtype=torch.float64)
        optimizer.step()
    return {key: parameter.tolist() for key, parameter in params.items()}


RATES = 20
EPOCH = 5
# name -> (their class, their arguments, whether an epoch is their step, our options)
SCHEDULES = {
    "step": (
        "StepLR",
        {"step_size": 6, "gamma": 0.3},
        False,
        {"every": 6.0, "factor": 0.3},
    ),
    "multistep": (
        "MultiStepLR",
        {"milestones": [5, 11], "gamma": 0.3},
        False,
        {"milestones": (5.0, 0.55), "factor": 0.3},
    ),
    "exponential": (
        "ExponentialLR",
        {"gamma": 0.01 ** (EPOCH / RATES)},
        True,
        {"end": 0.01, "per_epoch": True},
    ),
    "polynomial": ("PolynomialLR", {"total_iters": RATES, "power": 2.0}, False, {}),
    "one_cycle": ("OneCycleLR", {"max_lr": 2.0, "total_steps": RATES}, False, {}),
    "warm_restarts": (
        "CosineAnnealingWarmRestarts",
        {"T_0": 4, "T_mult": 2, "eta_min": 0.1},
        False,
        {"cycle": 4.0, "growth": 2.0, "floor": 0.1},
    ),
}


def rates(name: str) -> list[float]:
    """The rate of each step, with a peak of 2."""
    kind, arguments, per_epoch, _ = SCHEDULES[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = getattr(torch.optim.lr_scheduler, kind)(optimizer, **arguments)
    found = []
    for step in range(RATES):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if step + 1 < RATES and (not per_epoch or (step + 1) % EPOCH == 0):
            schedule.step()
    return found
