"""`python -m pcs_cli` is `pcs`."""

from pcs_cli.app import main

main()
