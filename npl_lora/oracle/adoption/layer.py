"""A layer as its author wrote it, adopted: what was found of it, and the answers that it gives to cases."""

import math
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from ..case import Case
from ..definition import RIGHT
from ..one_line import describe
from .constructor import GLUE, Constructor
from .framework import Framework
from .fused import of_rows
from .kinds import CONV1D, CONV2D, EMBEDDING, LINEAR, kind_of
from .law import CLOSE, GRID, Law, dora_scale, find_law, low_rank_scale
from .places import IMAGE, Places
from .refusal import refusal
from .shapes import Held, Roles, Shapes, find_roles, square_roles
from .sibling import find_sibling
from .wanted import FUSED, FUSED_SQUARE, PROBE, SHAPED, SQUARE, NotAdoptedError, Wanted

_LARGEST_RANK = 129  # that is looked for, where the constructor takes none
RANKS = (1, 2, 3, 4, 6, 7, 8, 16)  # those of the contracts' cases, and more


class Layer:
    """A layer's class, or a function that builds one, with the roles of its tensors and the law of its scale."""

    def __init__(self, framework: Framework, constructor: Constructor) -> None:
        self.framework = framework
        self.constructor = constructor
        if constructor.has("path"):
            constructor.sibling = find_sibling(framework, constructor)
        self.kind = kind_of(constructor)
        self.fixed_rank: int | None = None
        self.square_groups = False  # whether each group of a fused projection has as many outputs as inputs
        self.takes_bias, self.takes_no_bias, self.refusal = self._try_both_bases()
        self.path_alone = False
        self.roles = self._roles_or_those_of_squares()
        self.law = self._find_law()
        if not self.law.formula and self.roles.W is not None and self.roles.W.path.startswith("parametrizations."):
            self._read_with(constructor, "exchanged", True)  # what it takes for the rows of W may be in
        if not self.law.formula and self.kind is LINEAR and constructor.has("base"):
            self._read_with(self, "kind", CONV1D)  # it may be written for a base (in, out), and say so nowhere
        if not self.law.formula and self.kind.groups:
            self._read_with(self, "square_groups", True)  # it may take in for the size of a group

    @cached_property
    def dropout_place(self) -> str:
        """Where dropout acts: "x", "on x A^T", "after B", "on the columns of A", "elsewhere", or "" for none."""
        wanted = self.probe.but(dropout=0.5, bias=not self.takes_no_bias)
        x = self._few_rows(wanted)
        try:
            shapes = self.framework.dropped(self.build(wanted), x)
        except Exception:  # a forward that raises is judged case by case
            shapes = []
        if not shapes:
            return "elsewhere" if self.constructor.has("dropout") else ""
        rows = x.shape[:1]
        places = {x.shape: "x", (*rows, wanted.rank): "on x A^T", (*rows, wanted.out): "after B"}
        if self.kind is EMBEDDING:  # there is no x to drop: the contract drops rows of A^T
            places[*rows, wanted.rank] = "x"
        return places.get(shapes[0], "on the columns of A" if wanted.in_ in shapes[0] else "elsewhere")

    @property
    def own_dropout(self) -> bool:
        """Whether there is dropout whose probability no parameter sets."""
        return bool(self.dropout_place) and not self.constructor.has("dropout")

    @property
    def contract(self) -> str:
        """The contract that asks for one forward and backward."""
        return "dora_linear" if self.roles.m is not None else self.kind.contract

    @cached_property
    def m_by_input(self) -> bool:
        """Whether DoRA's magnitude has one number for each input, where PEFT has one for each output."""
        tensors = self.framework.tensors(self.build(self.probe.but(bias=not self.takes_no_bias)))
        return self.roles.m is not None and math.prod(tensors[self.roles.m].shape) != self.probe.out

    @property
    def probe(self) -> Wanted:
        probe = SQUARE if self.constructor.square_only else PROBE
        if self.kind.groups:
            probe = FUSED_SQUARE if self.square_groups else FUSED
        return probe.but(kind=self.kind.name, rank=self.fixed_rank or probe.rank)

    def build(self, wanted: Wanted) -> Any:
        """A new layer."""
        layer = self.constructor.build(wanted)
        layer = self.framework.finish(layer, wanted, self.constructor)
        return self.framework.with_base(layer, wanted)[0] if self.path_alone else layer

    def fresh(self, **changes: Any) -> Any:
        """A new layer of the probe's sizes, in float32, that has a weight where its author leaves memory as it is. What
        it draws by itself is the same each time."""
        with getattr(self.framework, "repeatable", nullcontext)():
            built = self.build(self.probe.but(bias=not self.takes_no_bias, **changes))
        layer = self.framework.cast(built, "float32")
        rng, there = np.random.default_rng(0), self.framework.tensors(layer)
        for path in (*([self.roles.W.path] if self.roles.W else ()), *self.roles.biases):
            if path in there and not np.isfinite(self.framework.read(layer, path)).all():
                self.framework.write(layer, path, rng.normal(size=there[path].shape).astype(np.float32))
        return layer

    def filled(self, wanted: Wanted, arrays: Mapping[str, np.ndarray], dtype: str) -> Any:
        """A new layer that holds W, A, B, the bias b and the magnitude m if there are such, in this dtype.

        With fan_in_fan_out, W comes as (in, out), and the layer must store it so.
        """
        layer = self.framework.cast(self._built_in(wanted, dtype), dtype)
        if self._clips(layer, wanted):
            raise NotImplementedError("its rank is at most min(in, out): a larger one adds nothing to what B A can be")
        self._write(layer, self.roles.A, arrays["A"])
        self._write(layer, self.roles.B, arrays["B"])
        if self.roles.W is not None and wanted.transposed:
            self._write_turned(layer, self.roles.W, arrays[self.kind.W])
        elif self.roles.W is not None:
            self._write(layer, self.roles.W, arrays[self.kind.W])
        if self.roles.m is not None:
            shape = self.framework.tensors(layer)[self.roles.m].shape
            m = arrays["m"] if "m" in arrays else np.ones(shape)
            if self.m_by_input and "m" in arrays:
                raise NotImplementedError("m has one number for each input, where PEFT has one for each output")
            self.framework.write(layer, self.roles.m, m.reshape(shape))
        there = self.framework.tensors(layer)
        biases = [path for path in self.roles.biases if path in there]
        if "b" in arrays and not biases:
            raise NotImplementedError("has no bias")
        for path in biases:
            self.framework.write(layer, path, np.zeros(there[path].shape, arrays["A"].dtype))
        if "b" in arrays:  # last, since two paths may share their memory
            self.framework.write(layer, biases[0], arrays["b"])
        return layer

    def wanted_for(self, case: Case, dropout: float = 0.0) -> Wanted:
        """What a case asks of the constructor. Raises NotImplementedError for what the layer does not have."""
        (out, rank), in_ = case["B"].shape[:2], case["A"].shape[1]
        config, bias = case.config, "b" in case or not self.takes_no_bias
        if self.fixed_rank not in (None, rank):
            raise NotImplementedError(f"its rank is always {self.fixed_rank}")
        if bias and not self.takes_bias:
            raise NotImplementedError("has no bias")
        rslora = config["use_rslora"]
        wanted = Wanted(in_, out, rank, bias=bias, dropout=dropout, kind=self.kind.name, **self._more(case))
        if rslora and self.constructor.has("rslora"):
            return wanted.but(strength=float(config["alpha"]), rslora=True)
        if self.law.kind == "fault" or (self.law.kind == "right" and not rslora):
            if rslora:
                raise NotImplementedError("has no rsLoRA")
            return wanted.but(strength=float(config["alpha"]))
        return wanted.but(strength=self.law.strength(RIGHT.scale(config), rank)) if self.law.parameter else wanted

    def _more(self, case: Case) -> dict[str, Any]:
        """What a case asks of an embedding or a convolution besides."""
        config, handed = case.config, self.constructor.has("base")
        if self.kind is EMBEDDING:
            if config.get("padding_idx") is not None and not handed and not self.constructor.has("padding_idx"):
                raise NotImplementedError("has no padding_idx")
            return {"padding_idx": config.get("padding_idx")}
        if self.kind is not CONV2D:
            return {}
        kernel = case["W"].shape[2:]
        return {"kernel": kernel, **Places(self.constructor, self.probe, self._image_size).asked(config, kernel)}

    def _image_size(self, wanted: Wanted) -> tuple[int, ...]:
        """Rows and columns of y for an image; () where the layer raises."""
        wanted = wanted.but(bias=not self.takes_no_bias)
        try:
            built = self.framework.cast(self.build(wanted), "float32")
            return self.framework.value(built, np.zeros((1, wanted.in_, *IMAGE), np.float32)).shape[2:]
        except Exception:  # whatever a stranger's layer raises
            return ()

    def _built_in(self, wanted: Wanted, dtype: str) -> Any:
        """A new layer, made in this dtype where the framework has a default dtype and the class does not mind it."""
        try:
            with getattr(self.framework, "made_in", nullcontext)(dtype):
                return self.build(wanted)
        except Exception:  # it may mix what it is handed with what is float32 always; what it raises then counts
            return self._built_if_taken(wanted)

    def _built_if_taken(self, wanted: Wanted) -> Any:
        """A new layer. What a constructor refuses by an error of its own is not supported, and no fault."""
        try:
            return self.build(wanted)
        except Exception as error:  # a stranger's constructor may raise anything
            if wanted.kernel[0] != wanted.kernel[1] and self._takes(wanted.but(kernel=SHAPED.kernel)):
                raise NotImplementedError("takes square kernels only") from None
            if not isinstance(error, ValueError | AssertionError):
                raise
            sizes = f"in = {wanted.in_}, out = {wanted.out}, r = {wanted.rank}"
            raise NotImplementedError(f"its constructor refuses {sizes}: {describe(error)}") from None

    def _clips(self, layer: Any, wanted: Wanted) -> bool:
        """Whether the layer has the largest rank that B A can have, where a larger one was wanted."""
        if self.kind is CONV2D:  # whose B A is larger
            return False
        most = min(wanted.in_, wanted.out)
        shape = self.framework.tensors(layer)[self.roles.A.path].shape
        return wanted.rank > most and shape == self.roles.A.stored(np.empty((most, wanted.in_)), shape).shape

    def _takes(self, wanted: Wanted) -> bool:
        try:
            self.build(wanted)
        except Exception:  # whatever a stranger's constructor raises
            return False
        return True

    def _write(self, layer: Any, held: Held, array: np.ndarray) -> None:
        shape = self.framework.tensors(layer)[held.path].shape
        array = held.stored(array, shape)
        if shape != array.shape:
            raise ValueError(f"{held.path} has shape {shape} in a layer that was asked for {array.shape}")
        self.framework.write(layer, held.path, array)

    def _write_turned(self, layer: Any, held: Held, W: np.ndarray) -> None:
        wanted = self.probe.but(transposed=True, bias=not self.takes_no_bias)
        shape = self.framework.tensors(self.build(wanted))[held.path].shape
        if shape != (wanted.in_, wanted.out):
            raise NotImplementedError("stores its weight as (out, in) with fan_in_fan_out, too")
        self.framework.write(layer, held.path, W)

    def _try_both_bases(self) -> tuple[bool, bool, str]:
        """As `_biases_taken`; what is named like a layer may be its weight, or beside its sizes its class."""
        try:
            return self._biases_taken()
        except NotAdoptedError:
            if not self.constructor.has("base"):
                raise
        makes_it = self.constructor.has("in") and "base class" in self.framework.parts
        self.constructor.take_base_as("base class" if makes_it else "weight")
        try:
            return self._biases_taken()
        except NotAdoptedError:
            self.constructor.take_base_as("base")
            return self._biases_taken()  # its own reason is the one to give

    def _biases_taken(self) -> tuple[bool, bool, str]:
        """Whether the constructor takes a base with a bias, and one without; how it refused, if it did."""
        taken, refusal = {}, ""
        for bias in (True, False):
            try:
                self.framework.finish(self.constructor.build(self.probe.but(bias=bias)), self.probe, self.constructor)
                taken[bias] = True
            except NotAdoptedError:
                raise
            except Exception as error:  # a stranger's constructor may raise anything
                taken[bias], refusal = False, describe(error)
        if all(taken.values()) and (raised := self.raises(self.probe)) and not self.raises(self.probe.but(bias=True)):
            taken[False], refusal = False, raised
        if not any(taken.values()):
            sizes = f"in = {self.probe.in_}, out = {self.probe.out}, r = {self.probe.rank}"
            raise NotAdoptedError(f"its constructor, asked for {sizes}, raised {refusal.rstrip('.')}. {GLUE}")
        return taken[True], taken[False], refusal

    def raises(self, wanted: Wanted) -> str:
        """What a call of such a layer raises, as its class is; "" for nothing."""
        try:
            built = self.framework.finish(self.constructor.build(wanted), wanted, self.constructor)
            self.framework.value(built, self._few_rows(wanted))
        except Exception as error:  # a stranger's forward may raise anything
            return describe(error)
        return ""

    def _few_rows(self, wanted: Wanted) -> np.ndarray:
        """An x of five rows, or ids."""
        x = self.kind.identity(wanted)[:5]
        return x if x.dtype.kind == "i" else x.astype(np.float32)

    def _roles_or_those_of_squares(self) -> Roles:
        """The roles. Where the factors fit no other weight than a square one, those of a layer with such a weight."""
        try:
            return self._find_roles()
        except NotAdoptedError:
            if self.kind not in (LINEAR, CONV1D) or not self.raises(self.probe.but(bias=self.takes_bias)):
                raise
            self.constructor.squares_alone = True
            with suppress(Exception):  # whatever a stranger's layer raises; then the first reason is the one to give
                self.roles = self._find_roles()
                if self._low_rank(8.0, self.probe.rank)[1] < CLOSE:
                    return self.roles
            self.constructor.squares_alone = False
            raise

    def _find_roles(self) -> Roles:
        wanted = self.probe.but(bias=self.takes_bias)
        wanted = wanted.but(kernel=SHAPED.kernel) if self.kind is CONV2D else wanted
        try:
            layer = self.build(wanted)
        except NotAdoptedError:
            raise
        except Exception as error:  # a stranger's constructor, or a method that sets up its adapter
            raise NotAdoptedError(f"set up with r = {wanted.rank}, it raised {describe(error)}. {GLUE}") from None
        tensors = self.framework.tensors(layer)
        shapes = {path: t.shape for path, t in tensors.items()}
        prefer = frozenset(path for path, t in tensors.items() if t.kind == "parameter")
        if self.constructor.square_only:
            return self._square_roles(layer, shapes, wanted)
        roles = self._roles_at_any_rank(shapes, wanted, prefer)
        return self._with_base(layer, roles, wanted) if roles.W is None else roles

    def _roles_at_any_rank(self, shapes: Shapes, wanted: Wanted, prefer: frozenset[str]) -> Roles:
        """The roles; where there are none at the rank that was asked for, those of a rank that is always the same."""
        try:
            return find_roles(shapes, wanted, self.kind, prefer)
        except NotAdoptedError as at_wanted:
            for rank in range(1, _LARGEST_RANK):
                if rank not in (wanted.in_, wanted.out):
                    with suppress(NotAdoptedError):
                        roles = find_roles(shapes, wanted.but(rank=rank), self.kind, prefer)
                        self.fixed_rank = rank
                        return roles
            raise at_wanted

    def _with_base(self, path: Any, roles: Roles, wanted: Wanted) -> Roles:
        """The roles where the layer is the low-rank path alone, and the check adds the base."""
        self.path_alone = True
        based = self.framework.with_base(path, wanted)[1]

        def inside(held: Held) -> Held:
            return replace(held, path=f"{based.path}.{held.path}")

        own = tuple(f"{based.path}.{path}" for path in roles.biases)
        return Roles(inside(roles.A), inside(roles.B), based.W, (based.bias, *own))

    def _square_roles(self, layer: Any, shapes: Shapes, wanted: Wanted) -> Roles:
        """Which factor is which, and whether W is stored as (in, out), by filling all and seeing what comes out."""
        base = [path for path, shape in shapes.items() if shape == (wanted.out, wanted.in_)]
        of_out = [path for path, shape in shapes.items() if shape == (wanted.out,)]
        bases = [Held(base[0]), Held(base[0], transposed=True)] if base else [None]
        factors = square_roles(shapes, wanted)
        biases = tuple(dict.fromkeys((*of_out, *factors[0].biases)))
        orders = [replace(roles, W=W, biases=biases) for roles in factors for W in bases]
        if not base:
            orders = [self._with_base(layer, roles, wanted) for roles in orders]
        misfits = []
        for self.roles in orders:
            misfits.append(self._low_rank(8.0, wanted.rank)[1])
        best = int(np.argmin(misfits))
        return orders[best]

    def _read_with(self, owner: Any, name: str, value: Any) -> None:
        """Read the roles and the law again with another setting, and keep it if that gives a law."""
        before, roles, law = getattr(owner, name), self.roles, self.law
        setattr(owner, name, value)
        try:
            self.roles = self._find_roles()
            self.law = self._find_law()
        except Exception:  # a stranger's constructor may raise anything where it is asked for other things
            self.law = law
        if not self.law.formula:
            setattr(owner, name, before)
            self.roles, self.law = roles, law

    def _low_rank(self, strength: float, rank: int) -> tuple[float, float]:
        """s, and what share of the low-rank path is left when s A^T B^T is taken away."""
        rng, wanted = np.random.default_rng(rank), self.probe
        A, B = rng.normal(size=(rank, wanted.in_)), rng.normal(size=(wanted.out, rank))
        W = rng.normal(size=(wanted.out, wanted.in_))
        if groups := self.kind.groups:
            B *= of_rows(groups, wanted.out // len(groups))[:, None]
        y, product = self.as_matrix(strength, W, A, B), A.T @ B.T
        return dora_scale(y, W.T, product) if self.roles.m is not None else low_rank_scale(y - W.T, product)

    def _exact_scale(self, strength: float, rank: int) -> float:
        """s to the last bit: the one number that is left where W is zero and A and B have a single 1."""
        wanted = self.probe
        W, A, B = (np.zeros(shape) for shape in ((wanted.out, wanted.in_), (rank, wanted.in_), (wanted.out, rank)))
        A[0, 0] = B[0, 0] = 1.0
        return float(self.as_matrix(strength, W, A, B)[0, 0])

    def as_matrix(self, strength: float, W: np.ndarray, A: np.ndarray, B: np.ndarray) -> np.ndarray:
        """The layer with these numbers as a matrix (in, out)."""
        wanted = self.probe.but(rank=len(A), strength=strength, bias=not self.takes_no_bias)
        base = W.T if self.kind.as_matrix else W
        shapes = self.kind.base(wanted), self.kind.factor_A(wanted), self.kind.factor_B(wanted)
        named = zip((self.kind.W, "A", "B"), (base, A, B), shapes, strict=True)
        arrays = {name: t.reshape(shape) for name, t, shape in named}
        return self.of_identity(self.filled(wanted, arrays, self.framework.widest), wanted)

    def of_identity(self, layer: Any, wanted: Wanted) -> np.ndarray:
        """y for x = I: the layer as a matrix. Asked with a batch axis if two axes are not taken."""
        x, shape = self.kind.identity(wanted), (wanted.in_, wanted.out)
        try:
            return self.framework.value(layer, x).reshape(shape)
        except NotAdoptedError:
            raise
        except Exception:  # whatever a stranger's forward raises; it raises again if that is not the reason
            return self.framework.value(layer, x[None]).reshape(shape)

    def _find_law(self) -> Law:
        parameter = self.constructor.parameter("alpha") or self.constructor.parameter("scale") or ""

        def measure(strength: float, rank: int) -> float:
            try:
                s, left = self._low_rank(strength, rank)
                exact = s if self.roles.m is not None else self._exact_scale(strength, rank)
            except (NotAdoptedError, NotImplementedError):  # the latter: it takes no such rank
                raise
            except Exception as error:  # a forward that raises is judged case by case
                if refused := refusal(error):
                    raise NotAdoptedError(f"its forward refuses what it was handed: {refused}") from None
                return math.nan
            if left >= CLOSE:
                return math.nan
            return exact if abs(exact - s) <= CLOSE * abs(s) else s

        if self.fixed_rank is None:
            return find_law(measure, parameter, RANKS)
        fixed = self.fixed_rank
        return find_law(measure, parameter, (fixed,), tuple((a, fixed) for a, _ in GRID))
