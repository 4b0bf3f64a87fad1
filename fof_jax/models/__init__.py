"""Networks: encoders, attention, and converters for pretrained weights."""
