"""Transforms that torchvision v2 lacks: preprocessing that travels with the weights, batched augmentation."""
