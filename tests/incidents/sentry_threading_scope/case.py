import itertools

import app
import pytest

numbers = itertools.count()


@pytest.mark.isolation(anonymous=0.25)
def test_report(user):
    user.observe(app.report(next(numbers), "" if user.anonymous else user.id))
