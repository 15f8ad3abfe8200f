"""The objectives by family; `rdljax.objectives` is their public name."""
