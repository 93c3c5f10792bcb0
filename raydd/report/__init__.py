"""Pages for people: the learned images, what they score, and how to get them again."""

from raydd.report.application import write_application
from raydd.report.compare import write_comparison
from raydd.report.page import write_report
from raydd.report.real import RealImages, draw_real, has_real
from raydd.report.sweep import write_sweep

__all__ = [
    "RealImages",
    "draw_real",
    "has_real",
    "write_application",
    "write_comparison",
    "write_report",
    "write_sweep",
]
