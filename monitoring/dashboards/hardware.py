"""GPU and memory."""

from monitoring.panels import Dashboard, Panel, by, legend
from monitoring.queries import each, total

FULL = ((0, "green"), (0.9, "orange"), (0.97, "red"))

ENGINES = (
    Panel(
        "Memory of engines, by version",
        "host: what the engine processes have in the machine's memory. device: what they hold on GPUs.",
        "bytes",
        ((total("engine_memory_bytes", "model", "version", "kind"), legend("model", "version", note="{{kind}}")),),
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
        (
            (
                " / ".join(total("gpu_memory_bytes", "gpu", filters=f'kind="{kind}"') for kind in ("used", "total")),
                legend("gpu"),
            ),
        ),
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
    "What the loaded versions hold, and how busy the GPUs are. Machines without an NVIDIA GPU show the first row only.",
    (("Engines", ENGINES), ("GPUs", GPUS)),
)
