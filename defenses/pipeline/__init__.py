"""The DEL pipeline: projection, stochastic n-bit quantization, wire, client, server, soft prompt, training."""
