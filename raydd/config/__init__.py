"""What a user may say: frozen models of a run, YAML in and out. No torch, no ray."""

from raydd.config.apps import APPS, AppConfig
from raydd.config.base import DataFacts, Section, flat
from raydd.config.load import config_from, dump_config, load_config, load_model, model_from, parse_yaml, validate
from raydd.config.methods import DMConfig, FRePoConfig, MethodConfig, MethodSpec, RandomConfig, methods
from raydd.config.net import NETS, ConvNetConfig, FRePoConvNetConfig, NetConfig, read_net
from raydd.config.run import BASELINES, PROTOCOLS, Config, DataConfig, EngineConfig, EvaluateConfig, TrackerName

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
    "EngineConfig",
    "EvaluateConfig",
    "FRePoConfig",
    "FRePoConvNetConfig",
    "MethodConfig",
    "MethodSpec",
    "NetConfig",
    "RandomConfig",
    "Section",
    "TrackerName",
    "config_from",
    "dump_config",
    "flat",
    "load_config",
    "load_model",
    "methods",
    "model_from",
    "parse_yaml",
    "read_net",
    "validate",
]
