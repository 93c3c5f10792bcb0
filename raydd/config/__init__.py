"""What a user may say: frozen models of a run, YAML in and out. No torch, no ray."""

from raydd.config.apps import APPS, AppConfig
from raydd.config.base import PROTOCOLS, DataFacts, Section, flat
from raydd.config.load import (
    SweepBase,
    config_from,
    dump_config,
    load_config,
    load_model,
    model_from,
    parse_yaml,
    read_config,
    sweep_base,
    validate,
)
from raydd.config.methods import DMConfig, FRePoConfig, MethodConfig, MethodSpec, RandomConfig, methods
from raydd.config.net import NETS, ConvNetConfig, FRePoConvNetConfig, NetConfig, read_net
from raydd.config.run import BASELINES, Config, DataConfig, EngineConfig, EvaluateConfig, TrackerName
from raydd.config.sweep import Dimension, SweepConfig

__all__ = [
    "APPS",
    "BASELINES",
    "NETS",
    "PROTOCOLS",
    "AppConfig",
    "Config",
    "ConvNetConfig",
    "DMConfig",
    "DataConfig",
    "DataFacts",
    "Dimension",
    "EngineConfig",
    "EvaluateConfig",
    "FRePoConfig",
    "FRePoConvNetConfig",
    "MethodConfig",
    "MethodSpec",
    "NetConfig",
    "RandomConfig",
    "Section",
    "SweepBase",
    "SweepConfig",
    "TrackerName",
    "config_from",
    "dump_config",
    "flat",
    "load_config",
    "load_model",
    "methods",
    "model_from",
    "parse_yaml",
    "read_config",
    "read_net",
    "sweep_base",
    "validate",
]
