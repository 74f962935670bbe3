"""The dashboards, one a file: overview, rollout, quality, generation, hardware."""

from monitoring.dashboards import generation, hardware, overview, quality, rollout
from monitoring.panels import Dashboard

DASHBOARDS: tuple[Dashboard, ...] = (
    overview.DASHBOARD,
    rollout.DASHBOARD,
    quality.DASHBOARD,
    generation.DASHBOARD,
    hardware.DASHBOARD,
)
