"""Many processes: the protocol between clients and servers.

`_messages` is what goes over the wire and `_codec` its bytes; `_peer` and `_broker` are the two halves of the protocol
in plain code, with `_answers` between them and `_admission` at the broker's door; `_remote` and `_server` are the
shells that tie them to a transport.

A cluster is described by `_spec`, `_programs` and `_cluster_file`; `_supervision` decides what runs of it and when it
is started again, `_supervisor` does it, `_output` shows what the processes print, and `_keeper` outlives them all.
"""

from aioflow.cluster._cluster_file import ClusterFile, parse_cluster, read_cluster
from aioflow.cluster._device_setter import replica_device_setter
from aioflow.cluster._remote import RemoteHost
from aioflow.cluster._server import Server
from aioflow.cluster._spec import ClusterSpec
from aioflow.cluster._supervisor import Running, launch, supervise

__all__ = [
    "ClusterFile",
    "ClusterSpec",
    "RemoteHost",
    "Running",
    "Server",
    "launch",
    "parse_cluster",
    "read_cluster",
    "replica_device_setter",
    "supervise",
]
