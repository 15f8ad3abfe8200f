"""Lists the losses of `rdljax.objectives`: the rows of the table at its head.

(`objectives.__all__` also has the memory bank of `crd` and its functions.)
"""

import inspect
import re

from rdljax import objectives

LOSSES = re.findall(r"^`(\w+)` +\w", inspect.getdoc(objectives) or "", re.MULTILINE)
