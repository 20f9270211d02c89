"""What the JSON of a file may hold: the type and the range of each entry, checked before anything is built from it.

Imported where a file is read or written, since importing this library stays quick.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Annotated, Any, Literal, cast, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, PydanticSchemaGenerationError, Strict, TypeAdapter, ValidationError

from ..errors import ArtifactError
from ..spec import LARGEST
from ..stored import Stored

LARGEST_NUMBER = 2**64  # of whole numbers whose meaning only their class knows, such as seeds
LARGEST_EFFORT = 10**7  # evaluations, steps, draws: what a call of the loaded explainer may take without being asked to
STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=True)

Rows = Annotated[int, Field(ge=1, le=LARGEST)]
Size = Annotated[int, Field(ge=0, le=LARGEST)]
Place = Annotated[int, Field(ge=0, le=LARGEST)]
Name = Annotated[str, Field(max_length=1000)]
Word = Annotated[str, Field(max_length=100, pattern=r"^[\w.+:/\-]*$")]
Reference = Annotated[tuple[Name, Place], Strict(False)]  # JSON has lists only
DType = Literal[None, "float32", "float64", "bfloat16"]


class Options(BaseModel):
    """The arguments of ``compile``; those that are Any are encoded, and checked once they are decoded."""

    model_config = STRICT
    wrt: Any
    output: Any
    baseline: Any
    dtype: DType
    batch_size: Rows | None
    per_token: bool
    strict: bool = False  # the last three are not in files of 0.1.0
    interacting: bool = False
    every_output: bool = False


class Described(BaseModel):
    """What ``explainers info`` shows."""

    model_config = STRICT
    backend: Word
    engine: Word
    device: Word
    method_text: str
    output: Name
    batch_size: Rows
    attributed: list[Name]
    signature: Any
    parts: dict[Word, list[Any]]
    coverage: list[Any]
    versions: dict[Word, Word]
    options: Options
    program: Literal["code", "data"] = "code"  # not in files of 0.1.0


class Whole(Described):
    """All that a manifest says, besides its format and its members."""

    method: Any
    wrt: list[Reference]
    places: list[Place | None]
    specs: list[Any]


class Member(BaseModel):
    """The size and the checksum of one member."""

    model_config = STRICT
    size: Size
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


OutputRow = Annotated[tuple[list[Any], Word, bool], Strict(False)]
NodeRow = Annotated[
    tuple[Name, str, Word, list[Reference], list[OutputRow], str, list[str], Word, bool, Any, str], Strict(False)
]


class Graph(BaseModel):
    """A traced graph, as :func:`.encoding.encode_graph` writes it."""

    model_config = STRICT
    nodes: list[NodeRow]
    inputs: list[Reference]
    outputs: list[Annotated[tuple[Name, Reference], Strict(False)]]


LENGTH: TypeAdapter[Any] = TypeAdapter(
    Annotated[tuple[Name, Rows, Name, Size, Size, Annotated[float, Field(ge=0)]], Strict(False)], config=STRICT
)
SHAPE: TypeAdapter[Any] = TypeAdapter(tuple[Size | None, ...], config=STRICT)
SLICE: TypeAdapter[Any] = TypeAdapter(tuple[int | None, int | None, int | None], config=STRICT)
MEMBERS: TypeAdapter[Any] = TypeAdapter(dict[str, Member], config=STRICT)
GRAPH: TypeAdapter[Any] = TypeAdapter(Graph)
DESCRIBED: TypeAdapter[Any] = TypeAdapter(Described)
WHOLE: TypeAdapter[Any] = TypeAdapter(Whole)


def check(known: TypeAdapter[Any], data: Any, what: str) -> None:
    """Raise ArtifactError, naming the entry, unless ``data`` has the types and the ranges of ``known``."""
    try:
        known.validate_python(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = "".join(f"[{part!r}]" for part in first["loc"])
        if first["type"] == "missing":
            raise ArtifactError(f"{what}{where} is missing, so it does not hold what this version expects") from None
        given, why = repr(first["input"]), first["msg"]
        raise ArtifactError(
            f"{what}{where} does not hold what this version expects: {why[0].lower()}{why[1:]}; it is "
            f"{given if len(given) <= 60 else given[:60] + '…'}"
        ) from None


def check_fields(kind: type[Any], values: Mapping[str, Any]) -> None:
    """Raise ArtifactError unless the values of a stored class's fields have the types that the class declares."""
    efforts = getattr(kind, "effort", ())
    for name, known in _of(cast(Hashable, kind)).items():
        if name not in values:
            continue
        value, what = values[name], f"{kind.__name__}.{name}"
        check(known, value, what)
        _check_numbers(value, LARGEST_EFFORT if name in efforts else LARGEST_NUMBER, what)


@lru_cache(maxsize=256)
def _of(kind: Hashable) -> dict[str, TypeAdapter[Any]]:
    declared: Any = kind
    hints = get_type_hints(declared)
    return {field.name: _adapter(hints[field.name]) for field in fields(declared)}


def _adapter(hint: Any) -> TypeAdapter[Any]:
    instance = isinstance(hint, type) and issubclass(hint, Stored)
    config = None if instance else STRICT  # pydantic takes no configuration for dataclasses
    try:
        return TypeAdapter(hint, config=config)
    except PydanticSchemaGenerationError:
        return TypeAdapter(Any)


def _check_numbers(value: Any, largest: int, what: str) -> None:
    if isinstance(value, int) and abs(value) > largest:
        raise ArtifactError(f"{what} is {value}; a file holds numbers up to {largest}")
    if isinstance(value, (tuple, list)):
        for entry in value:
            _check_numbers(entry, largest, what)
