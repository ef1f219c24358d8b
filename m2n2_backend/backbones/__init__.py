"""Models whose self-attention is read: Stable Diffusion, vision transformers, color."""
