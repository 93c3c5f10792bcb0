"""What a user may say of the applications, one file each."""

from raydd.config.apps.adapt import AdaptConfig, AdaptSection
from raydd.config.apps.base import AppConfig, AppSection
from raydd.config.apps.continual import ClassesSection, ContinualConfig, StreamSection, TasksSection
from raydd.config.apps.privacy import PrivacyConfig, PrivacySection
from raydd.config.apps.recall import RecallConfig, RecallSection
from raydd.config.apps.search import SearchConfig, SearchSection

APPS: dict[str, type[AppConfig]] = {
    "continual": ContinualConfig,
    "adapt": AdaptConfig,
    "search": SearchConfig,
    "privacy": PrivacyConfig,
    "recall": RecallConfig,
}

__all__ = [
    "APPS",
    "AdaptConfig",
    "AdaptSection",
    "AppConfig",
    "AppSection",
    "ClassesSection",
    "ContinualConfig",
    "PrivacyConfig",
    "PrivacySection",
    "RecallConfig",
    "RecallSection",
    "SearchConfig",
    "SearchSection",
    "StreamSection",
    "TasksSection",
]
