"""How aioflow compares with what users would pick instead, in the same run on the same machine.

    python -m benchmarks setup     # environments of their own for the systems that are compared
    python -m benchmarks run       # measure, print a table
    python -m benchmarks gate      # measure, and fail where aioflow is slower than it must be
    python -m benchmarks scaling   # the same of many clients, queues and elements

`workloads.py` says what is carried, `meter.py` what is measured, `systems/` has one file for each system, and
`docs/benchmarks.md` explains the figures.
"""
