"""GPU and memory."""

from monitoring.panels import FULL, Dashboard, Panel, by, legend, stat
from monitoring.queries import FILTER, MODEL_VERSION, each, total

GPU_SHARE = " / ".join(total("gpu_memory_bytes", "gpu", filters=f'kind="{kind}"') for kind in ("used", "total"))

GLANCE = (
    stat(
        "Memory of engines",
        "In the machine's memory, over all loaded versions.",
        "bytes",
        total("engine_memory_bytes", filters=f'{FILTER},kind="host"'),
        width=8,
    ),
    stat("GPU memory in use", "Of the fullest GPU.", "percentunit", f"max({GPU_SHARE})", steps=FULL, width=8),
    stat(
        "GPU utilization",
        "Mean over the GPUs: the share of the last moment in which they computed something.",
        "percentunit",
        f"avg({each('gpu_utilization_ratio', '')})",
        width=8,
    ),
)

ENGINES = (
    Panel(
        "Memory of engines, by version",
        "host: what the engine processes have in the machine's memory. device: what they hold on GPUs.",
        "bytes",
        ((total("engine_memory_bytes", *MODEL_VERSION, "kind"), legend(*MODEL_VERSION, note="{{kind}}")),),
        width=12,
        stacked=True,
    ),
    Panel(
        "Memory of engines, in all",
        "The sum over all loaded versions.",
        "bytes",
        by(total, "engine_memory_bytes", "kind"),
        width=12,
    ),
)

GPUS = (
    Panel(
        "GPU memory",
        "Memory in use by all processes on the GPU, those of other software included.",
        "bytes",
        ((each("gpu_memory_bytes", ""), legend("gpu", note="{{kind}}")),),
    ),
    Panel(
        "GPU memory in use",
        "Share of the GPU's memory. Both versions of a swap must fit at once.",
        "percentunit",
        ((GPU_SHARE, legend("gpu")),),
        steps=FULL,
    ),
    Panel(
        "GPU utilization",
        "Share of the last moment in which the GPU computed something.",
        "percentunit",
        ((each("gpu_utilization_ratio", ""), legend("gpu")),),
    ),
)

DASHBOARD = Dashboard(
    "hardware",
    "GPU and memory",
    "What the loaded versions hold, and how busy the GPUs are. Machines without an NVIDIA GPU show nothing of these.",
    (("At a glance", GLANCE), ("Engines", ENGINES), ("GPUs", GPUS)),
)
