from itertools import product
from typing import Any

import pytest
import torch
from transformers import get_scheduler

from kitune.errors import UserError
from kitune.training.schedule import SCHEDULES, learning_rate_at

RATE = 3e-4
NEEDED: dict[str, dict[str, Any]] = {
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "warmup_stable_decay": {"num_decay_steps": 7},
}
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *((name, NEEDED.get(name, {})) for name in SCHEDULES),
    ("cosine", {"num_cycles": 1.25}),
    ("cosine_with_restarts", {"num_cycles": 3}),
    ("polynomial", {"power": 2.0}),
    ("polynomial", {"power": 0.5, "lr_end": 1e-5}),
    ("polynomial", {"lr_end": 0.0}),
    ("inverse_sqrt", {"timescale": 9}),
    ("cosine_with_min_lr", {"min_lr": 2e-5}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.0, "num_cycles": 1.5}),
    ("cosine_warmup_with_min_lr", {"min_lr": 2e-5, "num_cycles": 1.5}),
    ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.2, "warmup_lr_rate": 0.05}),
    ("warmup_stable_decay", {"num_decay_steps": 4, "num_stable_steps": 5}),
    *(
        (
            "warmup_stable_decay",
            {"num_decay_steps": 8, "warmup_type": rise, "decay_type": fall, "min_lr_ratio": 0.1, "num_cycles": 0.75},
        )
        for rise, fall in product(("linear", "cosine", "1-sqrt"), repeat=2)
    ),
]


@pytest.mark.filterwarnings("ignore:Both num_training_steps and num_stable_steps")
@pytest.mark.parametrize(("warmup_steps", "total_steps"), [(0, 20), (1, 20), (5, 20), (7, 100), (0, 1), (19, 20)])
@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_each_rate_is_that_of_transformers(
    name: str, options: dict[str, Any], warmup_steps: int, total_steps: int
) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    theirs = get_scheduler(
        name,
        optimizer,
        num_warmup_steps=warmup_steps,
        num_training_steps=total_steps,
        scheduler_specific_kwargs=dict(options),
    )
    for step in range(total_steps + 3):
        ours = learning_rate_at(
            step, name=name, learning_rate=RATE, warmup_steps=warmup_steps, total_steps=total_steps, options=options
        )
        assert ours == pytest.approx(theirs.get_last_lr()[0], rel=1e-12, abs=1e-12 * RATE), step
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_training_of_warm_up_alone_has_rates(name: str) -> None:
    for step in range(4):
        rate = learning_rate_at(
            step, name=name, learning_rate=RATE, warmup_steps=3, total_steps=3, options=NEEDED.get(name)
        )
        assert 0 <= rate <= RATE


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("linear", {"power": 2.0}, "linear has no option 'power'\n  fix: leave train.schedule_options empty"),
        ("cosine", {"cycles": 2}, "cosine has no option 'cycles'\n  fix: it takes num_cycles"),
        ("cosine", {"warmup_steps": 2}, "cosine has no option 'warmup_steps'"),
        ("cosine", {"step": 2}, "cosine has no option 'step'"),
        ("polynomial", {"learning_rate": 1.0}, "polynomial has no option 'learning_rate'"),
        ("polynomial", {"lr_end": 3e-4}, "lr_end 0.0003 is not below the learning rate 0.0003"),
        ("warmup_stable_decay", {}, "warmup_stable_decay needs num_decay_steps"),
        (
            "warmup_stable_decay",
            {"num_decay_steps": 2, "decay_type": "sudden"},
            "decay_type 'sudden'\n  fix: use linear, cosine, 1-sqrt",
        ),
        ("warmup_stable_decay", {"num_decay_steps": 2, "warmup_type": "sudden"}, "warmup_type 'sudden'"),
        ("cosine", {"num_cycles": "many"}, "num_cycles 'many' is no number"),
        ("warmup_stable_decay", {"num_decay_steps": 2, "decay_type": 3.0}, "decay_type 3.0 is no name"),
        ("cosine_with_min_lr", {}, "takes one of min_lr and min_lr_rate"),
        ("cosine_with_min_lr", {"min_lr": 1e-5, "min_lr_rate": 0.1}, "takes one of min_lr and min_lr_rate"),
        ("cosine_warmup_with_min_lr", {"warmup_lr_rate": 0.1}, "takes one of min_lr and min_lr_rate"),
    ],
)
def test_an_option_that_a_schedule_lacks_or_needs_is_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"train.schedule_options: (.|\n)*{message}"):
        learning_rate_at(0, name=name, learning_rate=RATE, warmup_steps=2, total_steps=20, options=options)
