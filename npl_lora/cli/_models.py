"""What the commands that compute with a model do after it is loaded."""

from typing import TypeVar

from ..models import Pretrained

AnyModel = TypeVar("AnyModel", bound=Pretrained)


def ready(model: AnyModel, coded: bool) -> AnyModel:
    """The model, decoded unless it is to stay coded. Every tensor was read: one that is not finite was refused."""
    if not coded:
        return model.decode()
    model.check()
    return model
