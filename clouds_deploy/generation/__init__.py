"""Where the generated images come from: prompts by a language model, images by a diffusion model."""
