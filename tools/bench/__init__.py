"""What `tools/bench_step.py` and `tools/bench_eval.py` are made of."""
