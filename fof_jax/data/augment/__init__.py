"""Image augmentation on the device."""
