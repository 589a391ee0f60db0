"""The program of benchmarks/accelerator.sh; see __main__.py."""
