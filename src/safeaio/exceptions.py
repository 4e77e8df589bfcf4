"""Every error and warning that safeaio raises.

```
Exception
└── SafeaioError
    └── ChildCancelled
Warning
└── RuntimeWarning
    └── TaskStuckWarning
```

Misuse is a plain `TypeError`, `ValueError` or `RuntimeError`.
"""

from typing import final


class SafeaioError(Exception):
    """Base of everything that a program may want to catch."""


@final
class ChildCancelled(SafeaioError):
    """A child ended cancelled, though neither its caller nor safeaio had cancelled it.

    Without this class the child's own `asyncio.CancelledError` would look like a
    cancel of the caller, and end it silently. That error is the `__cause__`.

    Attributes:
        child: Which child it was, such as `"argument 3"` or `"item 7"`.
    """

    def __init__(self, child: str) -> None:
        super().__init__(child)
        self.child = child

    def __str__(self) -> str:
        return (
            f"{self.child} ended cancelled, though its caller was not: it was cancelled "
            "by somebody else, awaited a cancelled task, or raised CancelledError itself"
        )


@final
class TaskStuckWarning(RuntimeWarning):
    """A cancelled task does not end.

    Nothing can kill a coroutine: safeaio cancels it again and goes on waiting.
    The text gives the task's name, where it hangs, and for how long.
    """
