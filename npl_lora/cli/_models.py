"""What the commands that compute with a model do after it is loaded."""

from collections.abc import Sequence
from typing import TypeVar

from ..adapters import LoRA
from ..adapters.combination import combine_loaded
from ..models import Pretrained
from ._arguments import WeightedAdapter

AnyModel = TypeVar("AnyModel", bound=Pretrained)


def ready(model: AnyModel, coded: bool) -> AnyModel:
    """The model, decoded unless it is to stay coded. Every tensor was read: one that is not finite was refused."""
    if not coded:
        return model.decode()
    model.check()
    return model


def load_adapters(model: Pretrained, chosen: Sequence[WeightedAdapter] | None, allow_nonfinite: bool) -> LoRA | None:
    """The one adapter, or the weighted sum of several; None if none was chosen."""
    if not chosen:
        return None
    loaded = [model.load_adapter(one.folder, allow_nonfinite=allow_nonfinite) for one in chosen]
    if len(chosen) == 1 and chosen[0].weight == 1.0:
        return loaded[0]
    return combine_loaded(loaded, [one.weight for one in chosen], model.base)
