"""What a pickle holds, without running it: containers, numbers, arrays, and classes as plain records; a call is refused.

Python's own reader imports what a pickle names and calls it. Here its opcodes are followed by hand: nothing is imported, and
only the functions in `CALLS`, which make arrays and containers, have a meaning.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from openlstm.errors import DataError
from openlstm.exchange.contents import NUMBERS, Lazy, damaged, reading, shape_of, short

EXPECTED = "a pickle of tensors, arrays, containers and modules"
MOST = 5_000_000
"""So many opcodes are followed: more than the largest checkpoints have, and few enough that what they make fits into memory."""


@dataclass(frozen=True)
class Global:
    """A class or a function that a pickle names: `torch.nn.modules.rnn.LSTM`."""

    name: str


@dataclass
class Record:
    """An object of a class that is not imported: the name of the class and the attributes."""

    kind: str
    args: tuple[Any, ...] = ()
    state: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Storage:
    """A run of numbers in a file: how many, of which type, and how they are read."""

    dtype: str
    count: int
    load: Callable[[], bytes]
    big: bool = False  # whether the bytes of a number stand in the other order


def load(
    file: BinaryIO | bytes,
    who: str,
    storage: Callable[[Any], Any] | None = None,
    calls: dict[str, Callable[..., Any]] | None = None,
) -> Any:
    """The object of one pickle.

    Args:
        file: at the pickle's begin; it is left at its end.
        who: what errors call it.
        storage: what a persistent id stands for; none are known if None.
        calls: more calls that have a meaning, beside `CALLS`.

    Raises:
        DataError: if it is damaged, or calls a function that makes neither an array nor a container.

    >>> import pickle
    >>> load(pickle.dumps({"a": [1, 2.5, None]}), "x.pkl")
    {'a': [1, 2.5, None]}
    >>> load(pickle.dumps(print), "x.pkl")
    Global(name='builtins.print')
    """
    with reading(who, EXPECTED, "fetch the file again"):
        return _Machine(who, storage, calls).run(_Bounded(io.BytesIO(file) if isinstance(file, bytes) else file))


class _Bounded:
    """A file of which no more is asked than there is: room is made for as many bytes as are asked for."""

    def __init__(self, file: BinaryIO) -> None:
        self.tell, self.readline, self._read = file.tell, file.readline, file.read
        here = file.tell()
        self._size = file.seek(0, 2)
        file.seek(here)

    def read(self, count: int) -> bytes:
        return self._read(min(count, self._size - self.tell()) if count > 2**16 else count)


class _Machine:
    """A stack, the marks on it and the memo: what the opcodes of a pickle work on."""

    def __init__(
        self, who: str, storage: Callable[[Any], Any] | None = None, calls: dict[str, Callable[..., Any]] | None = None
    ) -> None:
        self.who = who
        self.calls = CALLS | (calls or {})
        self.storage = storage
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: Any) -> Any:
        for count, (opcode, arg, _) in enumerate(pickletools.genops(file)):
            if count > MOST:
                raise damaged(self.who, f"more than {MOST} opcodes", "a checkpoint of some MB beside its tensors")
            name = opcode.name
            if name in _CONSTANTS:
                self.stack.append(arg)
            elif name in _MADE:
                self.stack.append(_MADE[name]())
            elif name in _FIXED:
                n = _FIXED[name]
                self.stack[-n:] = [tuple(self.pop(n))]
            else:
                step = getattr(self, f"op_{name.lower()}", None)
                if step is None:
                    raise damaged(self.who, f"the opcode {name}", "opcodes of a checkpoint")
                step(arg)
        return self.stack[-1]

    def pop(self, n: int) -> list[Any]:
        """The topmost n, still on the stack."""
        if len(self.stack) < n:
            raise ValueError("a pickle whose stack is empty")
        return self.stack[-n:]

    def marked(self) -> list[Any]:
        """What lies above the last mark, taken off."""
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def op_proto(self, _: Any) -> None:
        pass

    op_frame = op_stop = op_proto

    def op_mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def op_pop(self, _: Any) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def op_pop_mark(self, _: Any) -> None:
        self.marked()

    def op_dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def op_put(self, arg: Any) -> None:
        self.memo[int(arg)] = self.stack[-1]

    op_binput = op_long_binput = op_put

    def op_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def op_get(self, arg: Any) -> None:
        self.stack.append(self.memo[int(arg)])

    op_binget = op_long_binget = op_get

    def op_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.marked()))

    def op_list(self, _: Any) -> None:
        self.stack.append(self.marked())

    op_frozenset = op_list

    def op_dict(self, _: Any) -> None:
        found = self.marked()
        self.stack.append({})
        self.set_items(found)

    def op_append(self, _: Any) -> None:
        value = self.stack.pop()
        self.extend([value])

    def op_appends(self, _: Any) -> None:
        self.extend(self.marked())

    op_additems = op_appends

    def extend(self, values: list[Any]) -> None:
        if isinstance(self.stack[-1], list):  # what a record of a list's subclass holds is none of ours
            self.stack[-1].extend(values)

    def op_setitem(self, _: Any) -> None:
        pair = self.pop(2)
        del self.stack[-2:]
        self.set_items(pair)

    def op_setitems(self, _: Any) -> None:
        self.set_items(self.marked())

    def set_items(self, found: list[Any]) -> None:
        target = self.stack[-1]
        target = target.state if isinstance(target, Record) else target
        if isinstance(target, dict):
            for key, value in zip(found[::2], found[1::2], strict=True):
                plain = key is None or isinstance(key, (str, int, float, bool, bytes))
                target[key if plain else ("a key", len(target))] = value  # a tuple of tuples may take for ever to hash

    def op_global(self, arg: Any) -> None:
        self.stack.append(Global(arg.replace(" ", ".")))

    def op_stack_global(self, _: Any) -> None:
        module, name = self.pop(2)
        self.stack[-2:] = [Global(f"{module:s}.{name:s}")]

    def op_persid(self, arg: Any) -> None:
        if self.storage is None:
            raise damaged(self.who, "a name that stands for something outside", "a pickle that is whole")
        self.stack.append(self.storage(arg))

    def op_binpersid(self, _: Any) -> None:
        self.op_persid(self.stack.pop())

    def op_reduce(self, _: Any) -> None:
        function, args = self.pop(2)
        self.stack[-2:] = [self.call(function, args)]

    def op_inst(self, arg: Any) -> None:
        self.stack.append(self.call(Global(arg.replace(" ", ".")), tuple(self.marked())))

    def op_obj(self, _: Any) -> None:
        function, *args = self.marked()
        self.stack.append(self.call(function, tuple(args)))

    def op_newobj(self, _: Any) -> None:
        kind, args = self.pop(2)
        self.stack[-2:] = [self.new(kind, args)]

    def op_newobj_ex(self, _: Any) -> None:
        kind, args, _named = self.pop(3)
        self.stack[-3:] = [self.new(kind, args)]

    def new(self, kind: Any, args: Any) -> Any:
        if not isinstance(kind, Global) or not isinstance(args, tuple):
            raise damaged(self.who, "an object without a class", EXPECTED)
        return {} if kind.name in _DICTS else Record(kind.name, args)

    def op_build(self, _: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Record) and target.kind in ("numpy.ndarray", "numpy.dtype"):
            target.args += (state,)
        elif isinstance(target, Record):
            for part in state if isinstance(state, tuple) else (state,):
                if isinstance(part, dict):
                    target.state.update(part)

    def call(self, function: Any, args: Any) -> Any:
        name = function.name if isinstance(function, Global) else None
        if name is None or not isinstance(args, tuple):
            raise damaged(self.who, "a call of something that is no function", EXPECTED)
        name = name.replace("__builtin__.", "builtins.").replace("copy_reg.", "copyreg.").replace("numpy._core.", "numpy.core.")
        if name not in self.calls:
            what, hint = "holds code, which is never run", "open it where you trust it, and save its state_dict or safetensors"
            raise DataError.of(self.who, what, f"a call of {short(name)}", EXPECTED, hint)
        return self.calls[name](self.who, *args)


_CONSTANTS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE SHORT_BINUNICODE "
    "BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
_MADE: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,  # what is in a set need not be hashed
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
}
_FIXED = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_DICTS = ("collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict")


def _tensor(who: str, storage: Any, offset: Any, sizes: Any, strides: Any, *_: Any) -> Any:
    """A view of a storage: every number that it declares lies within it."""
    if not isinstance(storage, Storage):
        return Record("torch.Tensor")
    shape = shape_of(who, sizes, storage.count)
    steps = shape_of(who, [min(n, storage.count) if isinstance(n, int) else n for n in strides], 2**1000)
    last = offset + sum((n - 1) * s for n, s in zip(shape, steps, strict=True)) if 0 not in shape else 0
    if not isinstance(offset, int) or offset < 0 or last >= max(storage.count, 1):
        raise damaged(who, f"a tensor that ends at {last} of {storage.count} numbers", "tensors within their storage")
    kind = NUMBERS[storage.dtype]

    def array() -> np.ndarray:
        numbers = np.frombuffer(storage.load(), kind.newbyteorder(">") if storage.big else kind)
        if len(numbers) < storage.count:
            raise damaged(who, f"{len(numbers)} numbers of {storage.count}", "the numbers that are declared")
        return np.lib.stride_tricks.as_strided(numbers[offset:], shape, [s * kind.itemsize for s in steps])

    return Lazy(storage.dtype, shape, array, who)


def array_of(who: str, record: Record) -> Lazy | None:
    """An array of numpy, whose pickled state is (version, shape, dtype, whether in Fortran's order, bytes); None for others."""
    state = record.args[-1] if record.kind == "numpy.ndarray" and record.args else None
    if not isinstance(state, tuple) or len(state) != 5:
        return None
    _, sizes, kind, fortran, data = state
    code = kind.args[0] if isinstance(kind, Record) and kind.kind == "numpy.dtype" and kind.args else None
    if not isinstance(code, str) or code not in _CODES or not isinstance(data, (bytes, bytearray)):
        return None
    big = any(isinstance(s, tuple) and ">" in s[:2] for s in kind.args)
    stored = NUMBERS[_CODES[code]]
    shape = shape_of(who, sizes, len(data) // stored.itemsize)
    numbers = np.frombuffer(data, stored.newbyteorder(">") if big else stored, int(np.prod(shape)))
    return Lazy(_CODES[code], shape, lambda: numbers.reshape(shape, order="F" if fortran else "C"), who)


_CODES = {"f2": "float16", "f4": "float32", "f8": "float64", "i1": "int8", "u1": "uint8", "i4": "int32", "i8": "int64"}


def _rebuilt(who: str, function: Any, _kind: Any, args: Any, *_: Any) -> Any:
    """A tensor of a subclass, or with attributes: what it is without them."""
    return _Machine(who).call(function, args)


def _jax(who: str, function: Any, args: Any, state: Any, *_: Any) -> Any:
    """An array of JAX, which is pickled as one of numpy."""
    return Record("numpy.ndarray", (state,))


def _frombuffer(who: str, data: Any, kind: Any, sizes: Any, order: Any = "C", axes: Any = None) -> Any:
    """An array of numpy as protocol 5 writes it."""
    return Record("numpy.ndarray", () if axes is not None else ((1, sizes, kind, order == "F", data),))


def _dict(who: str, *args: Any) -> dict[Any, Any]:
    pairs = next((a for a in args if isinstance(a, (list, tuple))), [])
    flat = [one for pair in pairs if isinstance(pair, (list, tuple)) and len(pair) == 2 for one in pair]
    machine = _Machine(who)
    machine.stack.append({})
    machine.set_items(flat)
    return machine.stack[0]


def _first(who: str, *args: Any) -> Any:
    return args[0] if args else []


def _record(kind: str) -> Callable[..., Any]:
    return lambda who, *args: Record(kind, args)


def _encoded(who: str, text: Any, encoding: Any = "latin1") -> Any:
    """Bytes as protocol 2 writes them."""
    return text.encode("latin-1") if isinstance(text, str) else text


CALLS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("collections.OrderedDict", "collections.defaultdict", "builtins.dict"), _dict),
    **dict.fromkeys(("builtins.set", "builtins.frozenset", "builtins.list", "builtins.tuple", "builtins.bytearray"), _first),
    **dict.fromkeys(("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"), _tensor),
    **dict.fromkeys(("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state", "torch.Size"), _first),
    **{
        f"torch.jit._pickle.{name}": _first for name in "build_intlist build_tensorlist build_doublelist build_boollist".split()
    },
    "torch.jit._pickle.restore_type_tag": _first,
    "torch._tensor._rebuild_from_type_v2": _rebuilt,
    "jax._src.array._reconstruct_array": _jax,
    "numpy.core.multiarray._reconstruct": lambda who, *args: Record("numpy.ndarray"),
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy.core.multiarray.scalar": _record("numpy.generic"),
    "numpy.dtype": _record("numpy.dtype"),
    "_codecs.encode": _encoded,
    "copyreg._reconstructor": lambda who, kind, *_: Record(kind.name) if isinstance(kind, Global) else Record("object"),
    **{
        name: _record(name)
        for name in (
            "torch.device torch.serialization._get_layout torch._utils._rebuild_qtensor torch._utils._rebuild_sparse_tensor "
            "torch._utils._rebuild_tensor_v3 torch._utils._rebuild_meta_tensor_no_storage "
            "builtins.complex builtins.range builtins.slice builtins.int builtins.float builtins.str builtins.bool "
            "builtins.object collections.Counter collections.deque datetime.datetime datetime.date datetime.timedelta "
            "datetime.timezone pathlib.PosixPath "
            "pathlib.PurePosixPath pathlib.WindowsPath pathlib.PureWindowsPath pathlib._local.PosixPath "
            "torch.torch_version.TorchVersion decimal.Decimal fractions.Fraction uuid.UUID"
        ).split()
    },
}
"""The calls that have a meaning here: they make arrays and containers, or plain records of what is no array."""
