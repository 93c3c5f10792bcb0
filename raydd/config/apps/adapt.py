"""What a user may say of domain adaptation."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from raydd.config.apps.base import AppConfig, AppSection, check_baselines


class AdaptSection(AppSection):
    """Where networks come from, and how they are fine-tuned."""

    source: str = Field(description="what networks are trained on first: packed shards (URL), or a SOURCE")
    rotate: float = Field(0.0, description="degrees that the source's images are turned by")
    source_epochs: int = Field(20, ge=1, description="epochs of that training, cosine to zero")
    networks: int = Field(20, ge=1, description="networks that DD distils for, where the set is for any of them")
    lr: float = Field(0.01, gt=0, description="SGD's rate of fine-tuning; momentum 0.9, weight decay 5e-4")
    updates: int = Field(500, ge=1, description="updates of fine-tuning")
    drop: int = Field(300, ge=1, description="updates after which the rate is a tenth")
    batch: int = Field(256, ge=1, description="images of an update")


class AdaptConfig(AppConfig):
    """Domain adaptation by few images of the target."""

    summary: ClassVar[str] = "networks of another data set, fine-tuned on few real, selected or distilled images"
    paper: ClassVar[str] = (
        "Zhao, Mopuri & Bilen, Dataset Condensation with Gradient Matching, ICLR 2021, Table 4; "
        "Wang et al., Dataset Distillation, 2018, Table 2"
    )

    app: AdaptSection

    @model_validator(mode="after")
    def _check_adaptation(self) -> Self:
        if self.evaluate.nets != "auto":
            raise ValueError("evaluate.nets must be auto, since the network of the section net is adapted; remove it")
        check_baselines(self, ("random", "random@bytes"))
        return self
