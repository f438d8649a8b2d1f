"""In which cases a mistake shows: the settings that tell them from the others."""

from collections.abc import Collection, Iterator

from ..case import Case
from .words import listed

_ARRAYS = {"mask": "a dropout mask", "b": "a bias", "key_mask": "a key mask", "m": "a magnitude"}
_TELLING = {f"{word} {noun}" for noun in _ARRAYS.values() for word in ("with", "without")}
_SETTINGS = {
    ("use_rslora", True): "with rsLoRA",
    ("use_rslora", False): "without rsLoRA",
    ("causal", True): "with the causal mask",
    ("causal", False): "without the causal mask",
    ("rope_theta", None): "without rope",
    ("padding_idx", None): "without padding_idx",
}


def where(shows: Collection[Case], does_not: Collection[Case]) -> str:
    """A clause that is true of all cases of the first kind and of none of the second; "" if there are none of those."""
    if not does_not:
        return ""
    for clause in _common_to(shows):
        if not any(clause in set(_clauses(case)) for case in does_not) and _is_borne_out(clause, shows):
            return clause
    return f"in {listed(_names(shows, does_not))}"


def _is_borne_out(clause: str, shows: Collection[Case]) -> bool:
    """Whether two cases have it, or it is about an array that is there. One case has much that is incidental."""
    return clause in _TELLING or len({short_name(case) for case in shows}) > 1


def _names(shows: Collection[Case], does_not: Collection[Case]) -> list[str]:
    """The names of cases, with a dtype where the same case does not show it in another one."""
    others = {short_name(case) for case in does_not}
    names = (
        f"{short_name(case)}, {_dtype(case)}" if short_name(case) in others else short_name(case) for case in shows
    )
    return list(dict.fromkeys(names))


def _common_to(cases: Collection[Case]) -> list[str]:
    first, *others = cases
    return [clause for clause in _clauses(first) if all(clause in set(_clauses(case)) for case in others)]


def _clauses(case: Case) -> Iterator[str]:
    """What can be said of a case, the most telling first."""
    for name, noun in _ARRAYS.items():
        yield f"with {noun}" if name in case else f"without {noun}"
    for name, value in case.config.items():
        if isinstance(value, bool | None) and (name, value) in _SETTINGS:
            yield _SETTINGS[name, value]
        elif isinstance(value, str):
            yield f"with {name} = {value}"
    heads = case.config.get("n_heads")
    if heads is not None:
        yield "with grouped key/value heads" if case.config["n_kv_heads"] < heads else "without grouped heads"
    if case.config.get("accumulation"):
        yield "with accumulation" if case.config["accumulation"] > 1 else "without accumulation"
    yield f"in {_dtype(case)}"
    if "x" in case:
        yield f"with x of {case['x'].ndim} axes"


def short_name(case: Case) -> str:
    """The name within its contract, of a case whose id is contract/name/dtype."""
    names = case.id.split("/")
    return names[1] if len(names) == 3 else case.id


def _dtype(case: Case) -> str:
    """The dtype that was asked. A case that is judged as one of a coarser dtype keeps its id."""
    names = case.id.split("/")
    return names[2] if len(names) == 3 else case.dtype
