"""Generated images: prompts by a language model, images by a diffusion model."""
