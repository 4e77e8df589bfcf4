"""The `repr`, `==` and `hash` of values, written once."""

from typing import Any


class Record:
    """A base for frozen attrs classes, made with `eq=False, repr=False`.

    attrs writes these methods for each class, and has Python compile them: most of the
    time that such a class takes, and much of what `import safeaio` did.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        fields = (f"{name}={value!r}" for name, value in _fields_of(self).items())
        return f"{type(self).__name__}({', '.join(fields)})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return _fields_of(self) == _fields_of(other)

    def __hash__(self) -> int:
        return hash((type(self), *_fields_of(self).values()))


def _fields_of(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in record.__attrs_attrs__}
