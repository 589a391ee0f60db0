"""What benchmarks/accelerator.sh runs; see __main__.py."""
