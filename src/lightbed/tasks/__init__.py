"""One task a file; all share `Task`."""

from lightbed.tasks.base import Task
from lightbed.tasks.classifier import Classifier

__all__ = ["Classifier", "Task"]
