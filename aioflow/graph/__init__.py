"""Dataflow graphs, in plain code: ops and nodes, what a step needs of them, in which order, and where.

`_op` is what users decorate, `_graph` what calling it makes, `_scopes` what surrounds a call; `_plan` prunes a graph to
what a step needs, `_countdown` says what is ready, `_placement` where each node runs, `_dot` draws it.
"""

from aioflow.graph._builtin import constant, group, identity, placeholder
from aioflow.graph._countdown import Countdown
from aioflow.graph._dot import LastRun
from aioflow.graph._fetches import flatten_fetches
from aioflow.graph._graph import Argument, Colocation, Graph, Node, Output
from aioflow.graph._op import Op, op, outputs_of
from aioflow.graph._partition import Part, Task, partition
from aioflow.graph._placement import place, placement_table
from aioflow.graph._plan import Mode, Plan, make_plan
from aioflow.graph._prune import is_folded, prune
from aioflow.graph._scopes import (
    Placeable,
    container,
    control_dependencies,
    current_container,
    current_device,
    current_graph,
    current_variable_scope,
    device,
    find_graph,
    name_scope,
    variable_scope,
)

__all__ = [
    "Argument",
    "Colocation",
    "Countdown",
    "Graph",
    "LastRun",
    "Mode",
    "Node",
    "Op",
    "Output",
    "Part",
    "Placeable",
    "Plan",
    "Task",
    "constant",
    "container",
    "control_dependencies",
    "current_container",
    "current_device",
    "current_graph",
    "current_variable_scope",
    "device",
    "find_graph",
    "flatten_fetches",
    "group",
    "identity",
    "is_folded",
    "make_plan",
    "name_scope",
    "op",
    "outputs_of",
    "partition",
    "place",
    "placeholder",
    "placement_table",
    "prune",
    "variable_scope",
]
