"""Picture files: decoding, framing, folders and manifests, and the check before training."""
