"""`python -m ftkit.cli`, as `ftkit`: what torchrun and accelerate start."""

from ftkit.cli.main import main

if __name__ == "__main__":
    main()
