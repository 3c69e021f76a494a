"""A web page and an HTTP API over trained models; see docs/serve.md."""
