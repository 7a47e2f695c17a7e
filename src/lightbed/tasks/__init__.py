"""One task a file; all share `Task`."""

from lightbed.tasks.base import Task
from lightbed.tasks.classifier import Classifier
from lightbed.tasks.detector import Detector
from lightbed.tasks.localizer import Localizer
from lightbed.tasks.segmenter import Segmenter

__all__ = ["Classifier", "Detector", "Localizer", "Segmenter", "Task"]
