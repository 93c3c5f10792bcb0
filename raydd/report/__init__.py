"""Pages for people: the learned images, what they score, and how to get them again."""

from raydd.report.page import write_report

__all__ = ["write_report"]
