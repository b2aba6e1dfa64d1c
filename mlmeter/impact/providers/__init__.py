"""Sources of carbon intensity on the network: asked only when a user passes one on."""
