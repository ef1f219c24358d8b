"""The labeling config: read once, one model for connecting, clicks, prefetching and batches."""

from m2n2_backend.labelstudio.contract.label_config.controls import Control, Target
from m2n2_backend.labelstudio.contract.label_config.image_tag import ImageTag
from m2n2_backend.labelstudio.contract.label_config.known import LabelConfigs
from m2n2_backend.labelstudio.contract.label_config.model import LabelConfig, ShownImage
from m2n2_backend.labelstudio.contract.label_config.parser import parse_label_config

__all__ = ["Control", "ImageTag", "LabelConfig", "LabelConfigs", "ShownImage", "Target", "parse_label_config"]
