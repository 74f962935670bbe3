"""Process 3: reads the registry, starts and stops engines, and publishes the routing table.

The files in the order of a version: `startup` and `prestart` begin → `registry_watch` resolves the references (by
`registry_poll`, woken by `registry_file` or `registry_desk`, which does operators' orders) → `policy` decides on a
snapshot → `load_queue` says which load comes next → `version_loader` fetches it → `managed_version` is a version from
then to its end → `placement` finds memory for its engines (`memory_guard` collects what the machine has and versions
need, `gpu_memory` the same of each GPU, `memory_budget` decides whether an engine fits, `residency` chooses which
versions leave, `memory_reading` reads what a process takes) → `engine_starter` → `engine_process`, over `launch` and
`processes` → `live_versions` says which one serves, and `last_live` keeps that on disk → `table_writer` publishes it.
`manager` is the loop around them, whose turns `wakeup` calls, with `rollout`, `recovery` of engines that another
manager started, `troubles` of one version kept from the others, `meter`, and `shutdown`.
"""
