"""How a class, or a function that builds a layer, is called: its parameters by the roles that their names tell."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from .config import AnyConfig
from .fused import SOME, Groups
from .wanted import USUAL, NotAdoptedError, Wanted
from .words import GROUPS, factor_of_part, role_of

Parts = Mapping[str, Callable[[Wanted], Any]]  # {role: how a framework makes what is handed over}

GLUE = (
    "Write build(in_features, out_features, rank, alpha, dropout, bias) that returns a layer, and check FILE.py:build"
)


class Constructor:
    """call: the class or function. roles: {parameter: role or None}, in the order of the signature."""

    def __init__(self, call: Callable[..., Any], parts: Parts) -> None:
        self.call = call
        self._parts = parts
        self._parameters = _parameters(call)
        self.takes_more = any(p.kind is p.VAR_KEYWORD for p in _all_parameters(call))
        self.roles = _roles(self._parameters)
        self.exchanged = False  # whether in and out mean each other
        self.base_is_weight = False  # whether what is named like a layer is a weight
        self.squares_alone = False  # whether it takes other sizes, and then its factors do not fit
        self.of_weights: bool | None = None  # whether forward takes a weight in the place of x; None: not yet known
        self.sibling: Constructor | None = None  # of the low-rank path that it is handed
        self._asked_elsewhere: dict[str, str] = {}
        self._made: dict[str, Any] = {}  # what several parameters share while a layer is built
        self.groups: Groups = _groups(set(filter(None, self.roles.values())))

    @property
    def name(self) -> str:
        return getattr(self.call, "__name__", type(self.call).__name__)

    @property
    def signature(self) -> str:
        """LoRALinear(in_features, out_features, rank)."""
        return f"{self.name}({', '.join(self.roles)})"

    def has(self, *roles: str) -> bool:
        """Whether one of these roles is among the parameters, or was asked elsewhere."""
        return any(role in self.roles.values() or role in self._asked_elsewhere for role in roles)

    def asked_elsewhere(self, role: str, name: str) -> None:
        """Note that a role is asked of a config object, or of a method that sets the adapter up, under this name."""
        self._asked_elsewhere[role] = name

    def take_base_as(self, what: str) -> None:
        """What is named like a layer is a layer ("base"), its "weight", or the "base class" that it is made of."""
        self.base_is_weight = what == "weight"
        old, new = ("base", "base class") if what == "base class" else ("base class", "base")
        self.roles = {name: new if role == old else role for name, role in self.roles.items()}

    def parameter(self, role: str) -> str | None:
        """The name of the parameter that plays a role."""
        known = next((name for name, played in self.roles.items() if played == role), None)
        return known or self._asked_elsewhere.get(role)

    @property
    def builds_a_layer(self) -> bool:
        """Whether the parameters are those of a LoRA layer: a rank (or its factors) and something to adapt."""
        sized = self.has("base", "weight", "size", "config") or (self.has("in", "ids") and self.has("out", "width"))
        factors = self.has("rank", "config", "A", "path") or bool(self.groups)
        return sized and factors and not self.unknown

    @property
    def unknown(self) -> list[str]:
        """The parameters that must be given and have no known role."""
        return [p.name for p in self._parameters if self.roles[p.name] is None and p.default is p.empty]

    @property
    def hands_parts(self) -> bool:
        """Whether it is handed the factors of q, k and v."""
        return bool(self.groups) and not self.has("groups")

    @property
    def square_only(self) -> bool:
        by_size = self.has("size") and not self.has("in", "out", "base", "weight", "config")
        return by_size or self.squares_alone

    def build(self, wanted: Wanted) -> Any:
        """Call it. Raises NotAdoptedError if a parameter is unknown, and whatever the call raises."""
        if self.unknown:
            raise NotAdoptedError(f"its constructor needs {' and '.join(self.unknown)}, which no rule knows. {GLUE}")
        wanted, self._made = wanted.but(groups=self.groups), {}
        if self.square_only and wanted.in_ != wanted.out:
            raise NotImplementedError("takes square weights only")
        given = {p.name: self._value(p, wanted) for p in self._parameters if self._is_given(p)}
        given |= {name: self._plain_value(name, wanted) for name in USUAL if self._takes_as_more(name, wanted)}
        if self.takes_more and not self.has("bias", "base", "weight"):
            try:
                return self.call(**given, bias=wanted.bias)
            except (TypeError, ValueError):  # what **kwargs is for is not bias
                return self.call(**given)
        return self.call(**given)

    def _takes_as_more(self, name: str, wanted: Wanted) -> bool:
        """Whether **kwargs is to take one of a convolution's places, which is not as usual."""
        usual = getattr(wanted, name) == USUAL[name]
        return self.takes_more and self.has("kernel") and not self.has(name) and not usual

    def _is_given(self, parameter: inspect.Parameter) -> bool:
        role, optional = self.roles[parameter.name], parameter.default is not parameter.empty
        if role is None or (role in ("device", "dtype", "A", "B", "key", "name", "dora") and optional):
            return role in ("device", "dtype")
        return not (role == "scale" and optional and self.has("alpha"))

    def _value(self, parameter: inspect.Parameter, wanted: Wanted) -> Any:
        role, annotation = self.roles[parameter.name] or "", str(parameter.annotation)
        if role in ("device", "dtype"):
            asked = {"device": wanted.device, "dtype": wanted.dtype}[role]
            elsewhere = role == "device" and str(parameter.default) not in ("None", "cpu")
            unusable = parameter.default is parameter.empty or elsewhere
            return self._parts[role](wanted) if asked or unusable else parameter.default
        if role == "config":
            return AnyConfig(lambda inner: self._answer(inner, wanted))
        if role == "bias" and self.has("weight"):
            return self._parts["bias tensor"](wanted) if wanted.bias else None
        if role == "base" and self.base_is_weight:
            role = "weight"
        if role.startswith(_FACTOR_OF):
            name = f"{role[0]} parts"
            if name not in self._made:
                self._made[name] = self._parts[name](wanted)
            return self._made[name][sum(self.groups[: _PARTS.index(role[-1])])]
        if role in ("A", "B") and "Tensor" in annotation:
            role = f"{role} tensor"
        if role == "path" and self.sibling is not None:
            return self.sibling.build(wanted)
        if role in self._parts:
            return self._parts[role](wanted)
        value = self._plain_value(role, wanted)
        whole = isinstance(value, float) and value.is_integer() and "int" in annotation and "float" not in annotation
        return int(value) if whole else value

    def _plain_value(self, role: str, wanted: Wanted) -> Any:
        in_, out = (wanted.out, wanted.in_) if self.exchanged else (wanted.in_, wanted.out)
        values = {
            "in": in_,
            "out": out,
            "size": wanted.in_,
            "ids": wanted.in_,
            "width": wanted.out,
            "rank": wanted.rank,
            "alpha": wanted.strength,
            "scale": 1.0 if self.has("alpha") else wanted.strength,
            "dropout": wanted.dropout,
            "bias": wanted.bias,
            "rslora": wanted.rslora,
            "transposed": wanted.transposed,
            "dora": False,
            "switch": False,
            "trained": True,  # a Keras layer may leave it to who puts it into a model
            "name": "default",
            "kernel": _single(wanted.kernel),
            "stride": _single(wanted.stride),
            "padding": _single(wanted.padding),
            "dilation": _single(wanted.dilation),
            "padding_idx": wanted.padding_idx,
            "groups": list(SOME),
        }
        return values[role]

    def _answer(self, role: str, wanted: Wanted) -> Any:
        """What a config object answers for a name of this role."""
        self.asked_elsewhere(role, role)
        return self._parts[role](wanted) if role in self._parts else self._plain_value(role, wanted)


def _single(pair: tuple[int, int]) -> int | tuple[int, int]:
    """One number for both, as most people write it, where that says the same."""
    return pair[0] if pair[0] == pair[1] else pair


_PARTS = "qkv"
_A_LIST = re.compile("list|tuple|sequence", re.IGNORECASE)
_FACTOR_OF = ("A of ", "B of ")


def _groups(roles: set[str]) -> Groups:
    """Of a fused projection: as a list says it, or as the names of the factors do."""
    if "groups" in roles:
        return SOME
    letters = {role[-1] for role in roles if role.startswith(_FACTOR_OF)}
    return tuple(part in letters for part in _PARTS) if letters else ()


_TEXT = ("str", "<class 'str'>")
_PLAIN = (*_TEXT, "bool", "<class 'bool'>", "int", "<class 'int'>", "float", "<class 'float'>")
_SWITCHES = ("is_", "use_", "enable", "merge", "train_")


def _is_switch(parameter: inspect.Parameter) -> bool:
    return parameter.annotation in (bool, "bool") or parameter.name.startswith(_SWITCHES)


def _all_parameters(call: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        found = list(inspect.signature(call).parameters.values())
        if isinstance(call, type) and all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in found):
            found = _of_a_base(call) or found
        names = [p.name for p in found]  # Flax linen adds the last two to a module's fields
        return found[:-2] if names[-2:] == ["parent", "name"] else found
    except (TypeError, ValueError):  # no signature can be read
        return []


def _of_a_base(kind: type) -> list[inspect.Parameter]:
    """Those of the first constructor that names any. A class that takes *args and **kwargs hands them on, and gives
    itself what must be given and plays no role, or is named like a base although the sizes of one are taken."""
    for base in kind.__mro__[:-1]:
        found = list(inspect.signature(base.__init__).parameters.values())[1:]  # type: ignore[misc]
        roles = {p.name: _role(p) for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        if roles:
            without = (None, "base") if {"in", "out"} <= set(roles.values()) else (None,)
            own = "__init__" in vars(kind) and base is not kind
            given = [p.name for p in found if p.default is p.empty and roles.get(p.name, "") in without]
            return [p for p in found if not own or p.name not in given]
    return []


def _parameters(call: Callable[..., Any]) -> list[inspect.Parameter]:
    return [p for p in _all_parameters(call) if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY)]


def _roles(parameters: list[inspect.Parameter]) -> dict[str, str | None]:
    roles = {p.name: _role(p) for p in parameters}
    for there, other in (("out", "in"), ("in", "out"), ("ids", "width")):  # a size beside an output is the input
        if there in roles.values() and other not in roles.values():
            roles = {name: other if role == "size" else role for name, role in roles.items()}
    return roles


def _role(parameter: inspect.Parameter) -> str | None:
    required, annotation = parameter.default is parameter.empty, str(parameter.annotation)
    role = role_of(parameter.name, by_words=required)  # what has a default can be left as it is
    if parameter.name in ("A", "B") and required:
        return parameter.name
    if parameter.name in GROUPS and (isinstance(parameter.default, list | tuple) or _A_LIST.search(annotation)):
        return "groups"
    if required and (factor := factor_of_part(parameter.name)):
        return factor
    if role is None and parameter.default is parameter.empty and _is_switch(parameter):
        return "switch"
    if role in ("scale", "bias", "alpha") and (isinstance(parameter.default, str) or annotation in _TEXT):
        return None  # a choice among words
    if role in ("A", "B") and "Module" not in annotation and parameter.default is not parameter.empty:
        return None
    if role == "path" and (not required or annotation in _PLAIN):
        return None
    an_array = any(word in annotation.lower() for word in ("tensor", "array"))
    a_layer = any(word in annotation for word in ("Module", "Linear"))
    other = {("base", True, False): "weight", ("weight", False, True): "base"}
    return other.get((role or "", an_array, a_layer), role)
