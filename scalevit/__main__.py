"""`python -m scalevit`, so that `torchrun -m scalevit …` is the same program as `scalevit …`."""

from scalevit.cli.main import main

raise SystemExit(main())
