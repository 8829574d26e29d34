"""Text-to-image models, one adapter per tenant over a shared diffusion base: preparation, training
and serving."""
