"""Networks: encoders and the attention, layers and converters that they use."""
