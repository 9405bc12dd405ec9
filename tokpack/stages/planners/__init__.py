"""Planners: plain functions `(lengths, capacity, *, seed, max_docs_per_row) -> row_of_doc: int32[n]`.

One file a strategy. A planner sees lengths and a capacity and nothing else; its name is a contract, the plan
for given lengths and seed never changes. `tokpack.stages.plan` looks them up, checks their output and adds
the bound.
"""
