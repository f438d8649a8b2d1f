"""The options of `train`, and the recipe and the adapter's configuration that they make."""

import argparse
from pathlib import Path
from typing import Any

from ..adapters import ConfigError, LoRAConfig
from ..adapters.config import check_names
from ..support.tensor_file import TensorFileError, json_object
from ..training.schedule import SCHEDULES
from ..training.step import OPTIMIZERS, Recipe
from . import _arguments, _data


def add_adapter_options(group: argparse._ArgumentGroup) -> None:
    """Options that --lora can give too have no default of their own: see lora_config."""
    group.add_argument(
        "--adapter",
        metavar="DIR",
        type=Path,
        action="append",
        help="go on from this adapter, a folder that PEFT or `npl-lora train` wrote: its rank, scale and modules stay,"
        " and the optimiser starts anew (default: a new adapter)",
    )
    _arguments.add_rank(group, None)
    group.add_argument("--alpha", type=float, metavar="X", help="the scale is alpha / R (default: 16)")
    group.add_argument(
        "--rslora", action="store_true", default=None, help="the scale is alpha / sqrt(R) (default: alpha / R)"
    )
    group.add_argument(
        "--dropout", type=float, metavar="P", help="share of the adapter's inputs that is dropped (default: 0)"
    )
    _arguments.add_target_modules(group)
    group.add_argument(
        "--lora",
        metavar="FILE",
        type=Path,
        help="a JSON object with fields of PEFT's LoraConfig (bias, rank_pattern, layers_to_transform, modules_to_save,"
        " ...), for example an adapter_config.json; options on the command line override it (default: none)",
    )


def add_training_options(group: argparse._ArgumentGroup) -> None:
    _arguments.add_steps(group, 100, "training steps")
    _arguments.add_batch(group, 4, "rows in a step")
    group.add_argument(
        "--micro-batch",
        type=int,
        metavar="N",
        help="rows at a time, to save memory (default: the batch, or a rank's share)",
    )
    _data.add_options(group)
    group.add_argument(
        "--lr", type=float, default=2e-4, metavar="X", help="highest learning rate (default: %(default)g)"
    )
    group.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw", help="optimiser (default: %(default)s)")
    group.add_argument(
        "--loraplus",
        type=float,
        default=1.0,
        metavar="X",
        help="LoRA+: B learns at X times the rate of A (default: %(default)g)",
    )
    group.add_argument(
        "--weight-decay", type=float, default=0.0, metavar="X", help="decoupled weight decay (default: %(default)g)"
    )
    group.add_argument(
        "--clip", type=float, default=1.0, metavar="X", help="largest norm of the gradient (default: %(default)g)"
    )
    group.add_argument(
        "--schedule", choices=SCHEDULES, default="cosine", help="course of the learning rate (default: %(default)s)"
    )
    group.add_argument(
        "--warmup", type=int, default=0, metavar="N", help="steps until the full learning rate (default: %(default)s)"
    )
    _arguments.add_seed(group, "A, of the order of the data, and of dropout")
    _arguments.add_coded(group)
    _arguments.add_allow_nonfinite(group)


def add_evaluation_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--held-out",
        type=float,
        default=0.1,
        metavar="X",
        help="share of the data to evaluate on (default: %(default)g)",
    )
    group.add_argument(
        "--every",
        type=int,
        default=25,
        metavar="N",
        help="steps between evaluations, each of which saves (default: %(default)s)",
    )
    group.add_argument(
        "--patience",
        type=int,
        metavar="N",
        help="stop after N evaluations in a row without a new lowest loss, and keep the best adapter (default: take all"
        " steps, and keep the last)",
    )
    group.add_argument("--sample", metavar="PROMPT", help="a text to continue after each evaluation (default: none)")


def recipe(arguments: argparse.Namespace) -> Recipe:
    return Recipe(
        steps=arguments.steps,
        lr=arguments.lr,
        optimizer=arguments.optimizer,
        weight_decay=arguments.weight_decay,
        loraplus_ratio=arguments.loraplus,
        clip=arguments.clip,
        schedule=arguments.schedule,
        warmup=arguments.warmup,
        seed=arguments.seed,
    )


def lora_config(arguments: argparse.Namespace, task: str) -> LoRAConfig:
    """The defaults, overridden by the file of --lora, overridden by the command line."""
    fields: dict[str, Any] = {"r": 8, "lora_alpha": 16.0}
    if arguments.lora is not None:
        try:
            fields |= json_object(arguments.lora.read_bytes(), str(arguments.lora))
        except TensorFileError as error:
            raise ConfigError(str(error)) from None
        check_names(fields)
    options = {
        "r": arguments.rank,
        "lora_alpha": arguments.alpha,
        "lora_dropout": arguments.dropout,
        "use_rslora": arguments.rslora,
        "target_modules": arguments.target_modules,
    }
    options = {name: value for name, value in options.items() if value is not None}
    return LoRAConfig.from_json({**fields, **options, "task_type": task})
