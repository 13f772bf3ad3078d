"""`aioflow keys`: who may connect to servers beyond this host."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from aioflow.keys import authorise, list_keys, make_keys, revoke

if TYPE_CHECKING:
    import argparse

__all__ = ["add_keys"]


def add_keys(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "keys",
        help="make, list, authorise and revoke keys of clients",
        description="Make, list, authorise and revoke the keys of clients. A server that is given the folder "
        "(aioflow serve --keys DIR) lets in those that are authorised, and sees a change at the next connection.",
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    make = actions.add_parser("make", help="make the servers' key and one for each client, authorised; print its file")
    make.add_argument("folder", metavar="DIR", help="a folder for the keys")
    make.add_argument("clients", metavar="CLIENT", nargs="*", help="a client's name")
    make.set_defaults(run=_make)
    listing = actions.add_parser("list", help="list the clients' public keys")
    listing.add_argument("folder", metavar="DIR", help="a folder of keys")
    listing.add_argument("--json", action="store_true", help="print one JSON array")
    listing.set_defaults(run=_list)
    for name, act, text in (
        ("authorise", authorise, "let a client in again whose key was revoked"),
        ("revoke", revoke, "let a client in no more, and end its connections"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("folder", metavar="DIR", help="a folder of keys")
        action.add_argument("client", metavar="CLIENT", help="the client's name")
        action.set_defaults(run=_move, act=act)


def _make(arguments: argparse.Namespace) -> int:
    for path in make_keys(arguments.folder, arguments.clients).values():
        print(path)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    keys = list_keys(arguments.folder)
    if arguments.json:
        print(json.dumps([asdict(key) for key in keys]))
        return 0
    for key in keys:
        print(f"{key.name}  {'authorised' if key.is_authorised else 'revoked'}  {key.public}")
    return 0


def _move(arguments: argparse.Namespace) -> int:
    arguments.act(arguments.folder, arguments.client)
    return 0
