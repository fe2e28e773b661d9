"""Many runs: grids, launching, scaling laws, forecasts, plans and the report; without torch.

`sv.study(spec, out)` runs a study. The import of a submodule replaces that function in `scalevit` by this
package, so the package can be called as well.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Any:
        return importlib.import_module("scalevit.cli.python_api").study(*args, **options)


sys.modules[__name__].__class__ = _CallablePackage
