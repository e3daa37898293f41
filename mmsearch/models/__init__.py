"""The models that come with the package, one directory each. `mmsearch.model_manifest` reads them."""
