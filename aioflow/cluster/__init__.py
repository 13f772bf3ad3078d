"""Many processes: the protocol between clients and servers.

`_messages` is what goes over the wire and `_codec` its bytes; `_peer` and `_broker` are the two halves of the protocol
in plain code, with `_answers` between them and `_admission` at the broker's door; `_remote` and `_server` are the
shells that tie them to a transport.

For graphs, `_steps` has the requests, `_service` runs them: `_master` places steps over all tasks, `_worker` runs those
of its own, and values meet in `_transfer`. `_values` and `_graph_codec` make frames of them, and `_library` says which
ops there are. `_cluster_host` is all this as a session has it.

A cluster is described by `_spec`, `_programs` and `_cluster_file`; `_supervision` decides what runs of it and when it
is started again, `_supervisor` does it, `_output` shows what the processes print, and `_keeper` outlives them all.
"""

from aioflow.cluster._cluster_file import ClusterFile, format_cluster, parse_cluster, read_cluster
from aioflow.cluster._cluster_host import ClusterHost
from aioflow.cluster._codec import pack_definition, read_definition
from aioflow.cluster._device_setter import replica_device_setter
from aioflow.cluster._process import prepare_process
from aioflow.cluster._programs import Program, parse_programs, parse_task
from aioflow.cluster._server import Server
from aioflow.cluster._spec import ClusterSpec
from aioflow.cluster._supervision import GiveUp, History, Start, after_exit, program_starts, server_starts
from aioflow.cluster._supervisor import ProcessInfo, Running, launch, run_starts, supervise

__all__ = [
    "ClusterFile",
    "ClusterHost",
    "ClusterSpec",
    "GiveUp",
    "History",
    "ProcessInfo",
    "Program",
    "Running",
    "Server",
    "Start",
    "after_exit",
    "format_cluster",
    "launch",
    "pack_definition",
    "parse_cluster",
    "parse_programs",
    "parse_task",
    "prepare_process",
    "program_starts",
    "read_cluster",
    "read_definition",
    "replica_device_setter",
    "run_starts",
    "server_starts",
    "supervise",
]
