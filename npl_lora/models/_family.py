"""What a family of models has to offer. A family is a module: llama, gemma, phi3, gpt2 and bert are those there are."""

from collections.abc import Collection, Mapping
from typing import Any, Protocol, Self

from ..adapters import Module
from ..ops.compose import Stage
from ..support.array import Array
from ._cache import Cache
from ._scope import Scope


class Config(Protocol):
    """The fields that every family's configuration has. A family adds those that its own mathematics needs."""

    @property
    def n_layers(self) -> int:
        """Blocks."""

    @property
    def width(self) -> int:
        """C, the features of a token between two blocks."""

    @property
    def vocabulary(self) -> int:
        """V, the rows of the embedding's table."""

    @property
    def positions(self) -> int:
        """The longest text, in tokens."""

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read a config.json. Raises ModelError for a field that is missing or not supported."""


class Family(Protocol):
    """What every family offers. Where it says `config`, it gets an instance of its own Config."""

    @property
    def KINDS(self) -> tuple[str, ...]:
        """The values of config.json's model_type that this family reads."""

    @property
    def TARGETS(self) -> tuple[str, ...]:
        """The default target_modules of PEFT."""

    @property
    def PREFIX(self) -> str:
        """What the tensors' names start with. Some checkpoints omit it."""

    @property
    def EMBEDDING(self) -> str:
        """The path of the token embedding."""

    @property
    def Config(self) -> type[Config]:
        """The configuration."""

    def modules(self, config: Any, tensors: Collection[str]) -> dict[str, Module]:
        """{path: Module} for every module that an adapter may sit on. tensors: the names in the checkpoint."""

    def norms(self, config: Any, tensors: Collection[str]) -> dict[str, tuple[int, ...]]:
        """{name: shape} of all other tensors."""

    def hidden(self, model: Scope, config: Any, *, key_mask: Array | None = None, recomputed: bool = False) -> Stage:
        """tokens (B, T) -> the features (B, T, C) after the last block and its norm.

        key_mask (B, T) bool: True for tokens that are not padding. recomputed: keep only each block's input for the
        backward, which then computes the block again.
        """


class CausalFamily(Family, Protocol):
    """A family of language models, for `Model`."""

    @property
    def HEAD(self) -> str:
        """The path of the output layer. If the checkpoint has no weight there, the embedding's table is used."""

    def hidden(
        self,
        model: Scope,
        config: Any,
        *,
        key_mask: Array | None = None,
        recomputed: bool = False,
        cache: Cache | None = None,
    ) -> Stage:
        """As in Family. cache: the keys and values of earlier tokens; those of these tokens are written to it.

        With a cache there is no backward.
        """

    def logits(self, model: Scope, config: Any) -> Stage:
        """x (..., C), the output of `hidden` -> the logits (..., V)."""
