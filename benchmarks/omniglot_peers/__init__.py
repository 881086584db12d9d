"""The memory beside other few-shot methods: the same drawings, the same encoder, one run."""
