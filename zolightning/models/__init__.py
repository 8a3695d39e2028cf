"""Backbones: loading, fine-tuning schemes, and the scoring of answer options."""
