"""The perturbation engine: directions from counters, masks, rounding, and weights perturbed inside the forward."""
