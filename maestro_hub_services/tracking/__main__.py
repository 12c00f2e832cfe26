"""``python -m maestro_hub_services.tracking``: see :mod:`maestro_hub_services.tracking.serve`."""

import sys

from .serve import main

sys.exit(main())
