"""Many processes: the protocol between clients and servers.

`_messages` is what goes over the wire and `_codec` its bytes; `_peer` and `_broker` are the two halves of the protocol
in plain code, with `_answers` between them and `_admission` at the broker's door; `_remote` and `_server` are the
shells that tie them to a transport.
"""

from aioflow.cluster._device_setter import replica_device_setter
from aioflow.cluster._remote import RemoteHost
from aioflow.cluster._server import Server
from aioflow.cluster._spec import ClusterSpec

__all__ = ["ClusterSpec", "RemoteHost", "Server", "replica_device_setter"]
