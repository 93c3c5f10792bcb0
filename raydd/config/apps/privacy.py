"""What a user may say of membership inference."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from raydd.config.apps.base import AppConfig, AppSection, check_baselines, check_protocols


class PrivacySection(AppSection):
    """Whose images an attacker wants to recognise, in what networks."""

    members: int = Field(
        10_000,
        ge=2,
        description="images of a chunk, at least: the training split is cut into equal parts, by class as even as can be",
    )
    chunks: int = Field(5, ge=1, description="chunks, each distilled and attacked on its own")
    updates: list[PositiveInt] = Field(
        [100, 400, 1600], min_length=1, description="of a network's training, after which it is attacked; one training"
    )
    batch: int = Field(256, ge=1, description="images a step; all where there are fewer")
    augment: bool = Field(False, description="whether networks are trained with the protocol's augmentation")

    @field_validator("updates")
    @classmethod
    def _check_updates(cls, updates: list[int]) -> list[int]:
        if sorted(set(updates)) != updates:
            raise ValueError("must be ascending, each number once")
        return updates


class PrivacyConfig(AppConfig):
    """Membership inference against networks trained on distilled images."""

    summary: ClassVar[str] = "whether networks trained on distilled images tell which real images these were made from"
    paper: ClassVar[str] = "Zhou, Nezhadarya & Ba, Dataset Distillation using Neural Feature Regression, NeurIPS 2022"

    app: PrivacySection = PrivacySection()

    @model_validator(mode="after")
    def _check_arms(self) -> Self:
        check_protocols(self, learned_steps=False)
        return check_baselines(self, ("random", "random@bytes", "whole"))
