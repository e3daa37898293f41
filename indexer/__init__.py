"""The build pipeline: files to rows, embeddings and a published snapshot."""
