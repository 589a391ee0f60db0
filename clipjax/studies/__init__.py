"""Studies: many runs of one trainer, and what they tell. A study's file imports these.

from clipjax.studies import Study, Tuning, log_range
"""

from clipjax.studies.study_file import (
    Screen as Screen,
)
from clipjax.studies.study_file import (
    Study as Study,
)
from clipjax.studies.study_file import (
    Tuning as Tuning,
)
from clipjax.studies.tuning_space import (
    choices as choices,
)
from clipjax.studies.tuning_space import (
    factor_range as factor_range,
)
from clipjax.studies.tuning_space import (
    factors as factors,
)
from clipjax.studies.tuning_space import (
    integer_range as integer_range,
)
from clipjax.studies.tuning_space import (
    log_range as log_range,
)
from clipjax.studies.tuning_space import (
    uniform_range as uniform_range,
)
