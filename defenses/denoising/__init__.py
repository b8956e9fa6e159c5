"""Natural-language understanding behind a defence: pooled LLM outputs, their denoiser, and prompts that help them.

The frame is Split-and-Denoise's (Mai, Yan, Huang, Yang, Pang 2024, ICML), for any defence of this project.
"""
