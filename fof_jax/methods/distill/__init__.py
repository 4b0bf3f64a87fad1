"""Distillation: image-only students of a multimodal teacher, and DGKD's teacher."""
