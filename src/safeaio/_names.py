"""The names of the services of a supervisor: each is given once."""

from collections.abc import Container
from typing import final

from ._service import Service


@final
class Names:
    """Gives every service a name of its own.

    Attributes:
        reserved: Names that services yet to come have asked for.
    """

    def __init__(self) -> None:
        self.reserved: frozenset[str] = frozenset()
        self._serials: dict[str, int] = {}

    def name(self, service: Service, taken: Container[str], path: str) -> str:
        """Return the name of one more service.

        Args:
            service: It may have asked for one.
            taken: The names of all that are there.
            path: Of the supervisor, for the error.

        Raises:
            ValueError: If it has asked for one that is taken.
        """
        if service.name is None:
            return self._free(service.default_name, taken)
        if service.name in taken:
            raise ValueError(
                f"supervisor {path!r} has a service {service.name!r}; give each a name "
                "of its own"
            )
        return service.name

    def _free(self, base: str, taken: Container[str]) -> str:
        name = base
        while name in taken or name in self.reserved:
            serial = self._serials[base] = self._serials.get(base, 1) + 1
            name = f"{base}-{serial}"
        return name
