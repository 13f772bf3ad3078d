"""Ties to other frameworks: each optional, each imported only by who asks for it.

`aioflow.contrib.ray` launches a cluster on Ray; it needs the extra `ray`.
"""
