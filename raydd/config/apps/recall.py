"""What a user may say of recall from memories."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field, PositiveInt, model_validator

from raydd.config.apps.base import AppConfig, AppSection, check_baselines, check_protocols


class RecallSection(AppSection):
    """What is composed of the memories of tasks, and what images recall."""

    tasks: int = Field(20, ge=2, description="the classes are cut into so many tasks, as equal as can be")
    ways: list[Annotated[int, Field(ge=2)]] = Field(
        [2, 5], min_length=1, description="classes of a draw, each of a task"
    )
    draws: int = Field(1000, ge=1, description="draws of so many classes; a classifier is trained for each")
    whole_draws: int = Field(100, ge=1, description="draws of these on which the baseline `whole` is trained")
    test_images: int = Field(100, ge=1, description="test images of each class that a draw is scored on")
    updates: PositiveInt | None = Field(None, description="of every classifier, at the full rate; null: the protocol's")
    episodes: int = Field(0, ge=0, description="draws of any classes that are recalled by images of theirs; 0: none")
    episode_ways: int = Field(5, ge=2, description="classes of an episode")
    shots: list[PositiveInt] = Field([1, 5], min_length=1, description="images of each class that recall its memory")


class RecallConfig(AppConfig):
    """Recall from memories: classes never seen together, and classes named by an image."""

    summary: ClassVar[str] = "classifiers of classes that were never distilled together, and recall by an image"
    paper: ClassVar[str] = "Deng & Russakovsky, Remember the Past, NeurIPS 2022"

    app: RecallSection = RecallSection()

    @model_validator(mode="after")
    def _check_draws(self) -> Self:
        wrong = next((ways for ways in self.app.ways if ways > self.app.tasks), None)
        if wrong is not None:
            raise ValueError(f"app.ways must be <= app.tasks ({self.app.tasks}), one class of each, got {wrong}")
        if not self.app.episodes and any(method.variant for method in self.methods):
            raise ValueError("app.episodes must be > 0 with a memory that is asked by images, got 0")
        if self.app.whole_draws > self.app.draws:
            raise ValueError(f"app.whole_draws must be <= app.draws ({self.app.draws}), got {self.app.whole_draws}")
        if self.evaluate.nets != "auto" and len(self.evaluate.nets) != 1:
            raise ValueError(f"evaluate.nets must be auto or one network here, got {len(self.evaluate.nets)}")
        check_protocols(self, learned_steps=False)
        return check_baselines(self, ("random", "random@bytes", "whole"))
