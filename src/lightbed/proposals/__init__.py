"""Where objects may be: boxes that R-CNN and Fast R-CNN look into."""
