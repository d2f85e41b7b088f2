"""The measurements behind docs/benchmarks.md, each beside the peers it names: ``thermae bench <name>``.

``embedded``, ``scaling``, ``restart``, ``tiers`` and ``hitratio`` are one module each; they share
``workload`` (keys, values, skew), ``timing`` (interleaved rounds), ``peers`` and ``redis_peer`` (what else
is measured) and ``report`` (what comes out).
"""
