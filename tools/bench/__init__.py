"""What `tools/bench_step.py` is made of."""
