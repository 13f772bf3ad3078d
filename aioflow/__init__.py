"""Named, bounded queues of tensors between the processes of a machine-learning job, native to asyncio.

A queue object is a definition; the resource behind it lives in a session: embedded in this process, or on a server that
other processes reach too. Loader processes enqueue, trainer processes dequeue batches; nobody polls, nobody overruns
memory, and nothing that was accepted is lost.

Where to read next: `client/` is what users hold, `queues/_machine.py` the rules of a queue, `cluster/_messages.py` what
goes over the wire, `errors.py` everything that can be raised.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aioflow._public import *  # noqa: F403
    from aioflow._public import __all__ as __all__

    __version__: str

else:
    # `import aioflow` costs next to nothing. The first name that is used loads all of them, so that nothing is left to
    # be loaded, file by file, on a running event loop.

    def __getattr__(name: str) -> Any:
        """Load the public names; or look the version up, as reading the distribution's metadata takes milliseconds."""
        if name == "__version__":
            from importlib.metadata import version  # noqa: PLC0415

            return version("aioflow-mq")
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        _public = import_module("aioflow._public")
        globals().update({known: getattr(_public, known) for known in ("__all__", *_public.__all__)})
        try:
            return globals()[name]
        except KeyError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None

    def __dir__() -> list[str]:
        """Name what can be used."""
        return [*__getattr__("__all__"), "__all__", "__doc__", "__name__", "__version__"]
